/* Load for one server, as cheaply as a program can make it, so that the server is what is measured.
 *
 * Knows no protocol: every connection has bytes to send when TCP is up, a text to wait for, bytes to send
 * then, and another text to wait for. Publishers have a template of one message with places to patch.
 * Deliveries are found by a magic word in the stream, behind which stands the intended send time, so that the
 * same code loads any bus. Closed loop: a window of messages per publisher, driven by one member of its
 * room, or by the publisher's own acks where these repeat the record. Open loop: a rate.
 *
 * usage: generator HOST PORT SCENARIO   (the scenario is written by scenario.py; loopback only)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC "0ARQBNCH" /* with the stamp and two characters between them it can be the id of a message */
#define MAGIC_LEN 8
#define STAMP_LEN 16 /* hexadecimal nanoseconds */
#define GAP_LEN 2    /* whose it is */
#define RECORD (MAGIC_LEN + GAP_LEN + STAMP_LEN)
#define BUCKETS (1 << 21) /* microseconds */
#define READ_SIZE (1 << 18)

typedef struct {
    char *data;
    uint32_t size;
} Blob;

enum { CONNECTING, AWAIT_FIRST, AWAIT_SECOND, RUNNING };

typedef struct {
    int fd, state, publisher, driver;
    uint32_t room;
    Blob connect, first, init, second, template;
    int32_t stamp_at, id_at;
    char carry[4096];
    uint32_t carried;
    char *out;
    size_t out_size, out_at, out_room;
    uint64_t to_send, counter, stamped;
    double next_due;
    int writable_armed;
} Connection;

static Connection *connections;
static uint32_t count, running;
static int poller, loaded;
static uint64_t deliveries, published, latency[BUCKETS], latest;
static int measuring;
static char buffer[READ_SIZE + 4096 + 1];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void arm(Connection *c, int writable) {
    if (c->writable_armed == writable) return;
    struct epoll_event e = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e)) die("epoll_ctl");
    c->writable_armed = writable;
}

static void flush(Connection *c) {
    while (c->out_at < c->out_size) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_size - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                arm(c, 1);
                return;
            }
            die("send");
        }
        c->out_at += n;
    }
    c->out_at = c->out_size = 0;
    arm(c, 0);
}

static char *reserve(Connection *c, size_t size) {
    if (c->out_size + size > c->out_room) {
        c->out_room = (c->out_size + size) * 2;
        c->out = realloc(c->out, c->out_room);
        if (!c->out) die("realloc");
    }
    char *at = c->out + c->out_size;
    c->out_size += size;
    return at;
}

static void put(Connection *c, Blob b) {
    memcpy(reserve(c, b.size), b.data, b.size);
    flush(c);
}

static void put_message(Connection *c, uint64_t intended) {
    static const char hex[] = "0123456789ABCDEF", crockford[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    char *at = reserve(c, c->template.size);
    memcpy(at, c->template.data, c->template.size);
    if (intended <= c->stamped) intended = c->stamped + 1; /* where it is the id, it is given once */
    c->stamped = intended;
    for (int i = 0; i < STAMP_LEN; i++) at[c->stamp_at + i] = hex[intended >> (60 - 4 * i) & 15];
    if (c->id_at >= 0) {
        uint64_t id = ++c->counter;
        for (int i = 0; i < 12; i++) at[c->id_at + 25 - i] = crockford[id >> (5 * i) & 31];
    }
    published += measuring;
}

static void publish_due(Connection *c) {
    if (!c->to_send) return;
    uint64_t now = now_ns();
    while (c->to_send) {
        put_message(c, now);
        c->to_send--;
    }
    flush(c);
}

static uint64_t unhex(const char *text) {
    uint64_t value = 0;
    for (int i = 0; i < STAMP_LEN; i++) {
        char d = text[i];
        value = value << 4 | (uint64_t)(d <= '9' ? d - '0' : d - 'A' + 10);
    }
    return value;
}

static Connection **room_publisher;

static void take(Connection *c, char *data, size_t size) {
    char *end = data + size, *at = data;
    uint64_t now = now_ns(), found = 0;
    while ((at = memmem(at, end - at, MAGIC, MAGIC_LEN)) && at + RECORD <= end) {
        found++;
        if (measuring) {
            uint64_t us = (now - unhex(at + MAGIC_LEN + GAP_LEN)) / 1000;
            latency[us < BUCKETS ? us : BUCKETS - 1]++;
        }
        at += RECORD;
        data = at;
    }
    if (measuring) deliveries += found;
    if (c->driver && loaded) {
        Connection *p = room_publisher[c->room];
        if (p && p->next_due < 0) p->to_send += found;
    }
    /* keep what could be the beginning of a record */
    size_t keep = end - data < RECORD - 1 ? (size_t)(end - data) : RECORD - 1;
    memmove(c->carry, end - keep, keep);
    c->carried = keep;
}

static void advance(Connection *c, char *data, size_t size) {
    if (c->state == RUNNING) {
        take(c, data, size);
        return;
    }
    Blob wanted = c->state == AWAIT_FIRST ? c->first : c->second;
    char *at = memmem(data, size, wanted.data, wanted.size);
    if (!at) {
        size_t keep = size < sizeof c->carry ? size : sizeof c->carry;
        memmove(c->carry, data + size - keep, keep);
        c->carried = keep;
        return;
    }
    at += wanted.size;
    c->carried = 0;
    if (c->state == AWAIT_FIRST) {
        put(c, c->init);
        c->state = AWAIT_SECOND;
        if (!c->second.size) {
            c->state = RUNNING;
            running++;
        } else if (at < data + size) {
            advance(c, at, data + size - at);
        }
    } else {
        c->state = RUNNING;
        running++;
    }
}

static void on_readable(Connection *c) {
    memcpy(buffer, c->carry, c->carried);
    ssize_t n = recv(c->fd, buffer + c->carried, READ_SIZE, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        fprintf(stderr, "generator: the server closed a connection in state %d: %.200s\n", c->state, c->carry);
        exit(1);
    }
    advance(c, buffer, c->carried + n);
}

static void poll_once(int timeout) {
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, timeout);
    for (int i = 0; i < n; i++) {
        Connection *c = events[i].data.ptr;
        if (c->state == CONNECTING) {
            c->state = AWAIT_FIRST;
            put(c, c->connect);
            if (!c->first.size) {
                c->state = AWAIT_SECOND;
                put(c, c->init);
                if (!c->second.size) c->state = RUNNING, running++;
            }
            continue;
        }
        if (events[i].events & EPOLLOUT) flush(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP)) on_readable(c);
    }
}

static void open_connection(Connection *c, struct sockaddr_in *address) {
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)address, sizeof *address)) die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    c->writable_armed = 1;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
}

static Blob read_blob(FILE *f) {
    Blob b = {0};
    if (fread(&b.size, 4, 1, f) != 1) die("scenario");
    b.data = calloc(1, b.size + 1);
    if (b.size && fread(b.data, b.size, 1, f) != 1) die("scenario");
    return b;
}

static uint64_t percentile(double share) {
    uint64_t total = 0, seen = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) total += latency[i];
    for (uint32_t i = 0; i < BUCKETS; i++)
        if ((seen += latency[i]) >= share * total) return i;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4 || strncmp(argv[1], "127.", 4)) {
        fprintf(stderr, "usage: generator 127.0.0.1 PORT SCENARIO\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    FILE *f = fopen(argv[3], "rb");
    if (!f) die(argv[3]);
    double warm_up, seconds, rate;
    uint32_t window, rooms;
    if (fread(&count, 4, 1, f) != 1 || fread(&rooms, 4, 1, f) != 1 || fread(&window, 4, 1, f) != 1 ||
        fread(&rate, 8, 1, f) != 1 || fread(&warm_up, 8, 1, f) != 1 || fread(&seconds, 8, 1, f) != 1)
        die("scenario");
    connections = calloc(count, sizeof *connections);
    room_publisher = calloc(rooms + 1, sizeof *room_publisher);
    poller = epoll_create1(0);
    for (uint32_t i = 0; i < count; i++) {
        Connection *c = &connections[i];
        uint32_t head[3];
        if (fread(head, 4, 3, f) != 3) die("scenario");
        c->publisher = head[0], c->driver = head[1], c->room = head[2];
        c->connect = read_blob(f), c->first = read_blob(f), c->init = read_blob(f), c->second = read_blob(f);
        if (c->publisher) {
            c->template = read_blob(f);
            if (fread(&c->stamp_at, 4, 1, f) != 1 || fread(&c->id_at, 4, 1, f) != 1) die("scenario");
            c->counter = (uint64_t)i << 40;
            c->next_due = -1;
            room_publisher[c->room] = c;
        }
    }
    fclose(f);
    uint64_t give_up = now_ns() + 60000000000ull;
    for (uint32_t i = 0; i < count; i++) {
        open_connection(&connections[i], &address);
        while (i > running + 64 && now_ns() < give_up) poll_once(10);
    }
    while (running < count && now_ns() < give_up) poll_once(100);
    if (running < count) {
        fprintf(stderr, "generator: only %u of %u connections are ready\n", running, count);
        return 1;
    }
    printf("READY %u\n", count);
    fflush(stdout);
    uint64_t start = now_ns(), begin = start + warm_up * 1e9, end = begin + seconds * 1e9;
    loaded = 1;
    for (uint32_t r = 0; r < rooms; r++) {
        Connection *p = room_publisher[r];
        if (!p) continue;
        if (rate > 0)
            p->next_due = start + 1e9 * r / (rate * rooms);
        else
            p->to_send = window;
    }
    int done = 0;
    while (!done) {
        uint64_t now = now_ns();
        if (!measuring && now >= begin && now < end) {
            measuring = 1;
            latest = now;
            printf("START\n");
            fflush(stdout);
        }
        if (now >= end) done = 1;
        for (uint32_t r = 0; r < rooms; r++) {
            Connection *p = room_publisher[r];
            if (!p) continue;
            if (rate > 0) {
                int sent = 0;
                while (p->next_due <= now) {
                    put_message(p, p->next_due);
                    p->next_due += 1e9 / rate;
                    sent = 1;
                }
                if (sent) flush(p);
            } else {
                publish_due(p);
            }
        }
        poll_once(rate > 0 || window == 0 ? 0 : 1);
    }
    printf("STOP\n");
    fflush(stdout);
    double took = (now_ns() - latest) / 1e9;
    printf("{\"published\": %lu, \"deliveries\": %lu, \"seconds\": %.6f, \"p50_us\": %lu, \"p99_us\": %lu, "
           "\"p999_us\": %lu}\n",
           published, deliveries, took, percentile(0.5), percentile(0.99), percentile(0.999));
    return 0;
}
