-- arqonbus: expand
-- The projection of Continuum: events as they came, the episodes that follow from them, what could not be
-- projected, the books, and the audit.
--
-- Three roles. Whoever runs the migrations owns everything. arqonbus_writer is what the projector works as: it
-- reads and writes rows and changes no table. arqonbus_reader is for analysts: a login role that is a member of
-- it and stands in tenant_readers sees the rows of its tenant and no other, whatever it asks.

DO $$
DECLARE
    missing text;
BEGIN
    FOREACH missing IN ARRAY ARRAY['arqonbus_writer', 'arqonbus_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = missing) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', missing);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the role % is missing and % may not create it', missing, current_user
                        USING HINT = format('As a superuser: CREATE ROLE %I NOLOGIN; GRANT %I TO %I;',
                                            missing, missing, current_user);
            END;
        END IF;
    END LOOP;
    IF NOT pg_has_role(current_user, 'arqonbus_writer', 'MEMBER') THEN
        BEGIN
            EXECUTE format('GRANT arqonbus_writer TO %I', current_user);
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION '% may not work as arqonbus_writer', current_user
                    USING HINT = format('As a superuser: GRANT arqonbus_writer TO %I;', current_user);
        END;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA arqonbus TO arqonbus_writer, arqonbus_reader;

-- Which tenant a login role may read. Nobody but the owner changes it.
CREATE TABLE arqonbus.tenant_readers (
    role        name PRIMARY KEY,
    tenant_id   text COLLATE "C" NOT NULL
);

-- session_user is who logged in; unlike current_user and settings it cannot be changed by a query.
CREATE FUNCTION arqonbus.reader_tenant() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS 'SELECT tenant_id FROM arqonbus.tenant_readers WHERE role = session_user';

-- Tags and metadata are json and not jsonb, which would keep another text than came: 1e300 as an integer of 301
-- digits, say. Cast them where jsonb's operators are wanted.
-- event_time is the time in event_id, so that a key over both is a key over event_id, in partitions by time.
CREATE TABLE arqonbus.events (
    tenant_id       text COLLATE "C" NOT NULL,
    agent_id        text COLLATE "C" NOT NULL,
    event_id        text COLLATE "C" NOT NULL,
    event_time      timestamptz NOT NULL,
    episode_id      text COLLATE "C" NOT NULL,
    event_type      text NOT NULL,
    source_ts       timestamptz NOT NULL,
    schema_version  smallint NOT NULL,
    content_ref     text NOT NULL,
    tags            json NOT NULL,
    metadata        json NOT NULL,
    summary         text,
    embedding_ref   text,
    room            text NOT NULL,
    epoch           text NOT NULL,
    sequence        bigint NOT NULL,
    received_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, event_id, event_time)
) PARTITION BY RANGE (event_time);
CREATE INDEX events_by_episode ON arqonbus.events (tenant_id, agent_id, episode_id);

-- A partition for the month of a day. The projector works as a role that makes no tables, hence a definer.
CREATE FUNCTION arqonbus.ensure_partition(day date) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
DECLARE
    month date := date_trunc('month', day)::date;
    partition text := 'events_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass(format('arqonbus.%I', partition)) IS NOT NULL THEN
        RETURN partition;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('arqonbus.events'));
    -- Not to_regclass again: it would answer from what this session remembers, without looking.
    IF NOT EXISTS (SELECT FROM pg_class
                   WHERE relname = partition AND relnamespace = 'arqonbus'::regnamespace) THEN
        EXECUTE format('CREATE TABLE arqonbus.%I PARTITION OF arqonbus.events FOR VALUES FROM (%L) TO (%L)',
                       partition, month::timestamp AT TIME ZONE 'UTC',
                       (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    END IF;
    RETURN partition;
END
$$;

-- Drops the partitions that hold nothing younger, and gives their names.
CREATE FUNCTION arqonbus.retire_partitions(before timestamptz) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
DECLARE
    partition record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('arqonbus.events'));
    FOR partition IN
        SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'arqonbus.events'::regclass ORDER BY c.relname
    LOOP
        IF to_date(right(partition.name, 7), 'YYYY_MM') + interval '1 month' <= before AT TIME ZONE 'UTC' THEN
            EXECUTE format('DROP TABLE arqonbus.%I', partition.name);
            RETURN NEXT partition.name;
        END IF;
    END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION arqonbus.ensure_partition(date), arqonbus.retire_partitions(timestamptz) FROM PUBLIC;

-- Each column follows from the greatest event of the episode, so that a rebuild gives the same row.
CREATE TABLE arqonbus.episodes (
    tenant_id       text COLLATE "C" NOT NULL,
    agent_id        text COLLATE "C" NOT NULL,
    episode_id      text COLLATE "C" NOT NULL,
    event_id        text COLLATE "C" NOT NULL,
    event_type      text NOT NULL,
    source_ts       timestamptz NOT NULL,
    content_ref     text NOT NULL,
    tags            json NOT NULL,
    metadata        json NOT NULL,
    summary         text,
    embedding_ref   text,
    deleted         boolean NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, episode_id)
) WITH (fillfactor = 85);

CREATE TABLE arqonbus.dead_letters (
    tenant_id       text COLLATE "C" NOT NULL,
    id              text COLLATE "C" NOT NULL,
    room            text NOT NULL,
    epoch           text NOT NULL,
    sequence        bigint NOT NULL,
    time_us         bigint NOT NULL,
    code            text NOT NULL,
    reason          text NOT NULL,
    payload         bytea NOT NULL,
    agent_id        text NOT NULL,
    event_id        text NOT NULL,
    context         json NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    state           text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
    resolved_at     timestamptz,
    resolved_by     text NOT NULL DEFAULT '',
    resolution      text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX dead_letters_open ON arqonbus.dead_letters (tenant_id, id) WHERE state = 'open';

-- One row per tenant would be waited for by every projector; each writes into a bucket of its own.
CREATE TABLE arqonbus.books (
    tenant_id       text COLLATE "C" NOT NULL,
    bucket          smallint NOT NULL,
    arrived         bigint NOT NULL DEFAULT 0,
    projected       bigint NOT NULL DEFAULT 0,
    duplicate       bigint NOT NULL DEFAULT 0,
    stale           bigint NOT NULL DEFAULT 0,
    dead_lettered   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, bucket)
) WITH (fillfactor = 50);

CREATE TABLE arqonbus.audit (
    tenant_id       text COLLATE "C" NOT NULL,
    number          bigint NOT NULL,
    at              timestamptz NOT NULL,
    actor           text NOT NULL,
    action          text NOT NULL,
    arguments       json NOT NULL,
    outcome         text NOT NULL,
    previous        text NOT NULL,
    hash            text NOT NULL,
    PRIMARY KEY (tenant_id, number)
);

-- What readiness writes, reads back and deletes.
CREATE TABLE arqonbus.probes (
    name            text PRIMARY KEY,
    value           text NOT NULL
);

-- The newest row of each chain, kept apart: without it nobody could see that the last rows are gone.
CREATE TABLE arqonbus.audit_heads (
    tenant_id       text COLLATE "C" PRIMARY KEY,
    number          bigint NOT NULL,
    hash            text NOT NULL
);

CREATE FUNCTION arqonbus.refuse_change() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON arqonbus.audit
    FOR EACH ROW EXECUTE FUNCTION arqonbus.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON arqonbus.audit
    FOR EACH STATEMENT EXECUTE FUNCTION arqonbus.refuse_change();

GRANT SELECT, INSERT ON arqonbus.events, arqonbus.audit TO arqonbus_writer;
GRANT SELECT, INSERT, UPDATE ON arqonbus.books, arqonbus.dead_letters, arqonbus.audit_heads TO arqonbus_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON arqonbus.episodes, arqonbus.probes TO arqonbus_writer;
GRANT EXECUTE ON FUNCTION arqonbus.ensure_partition(date), arqonbus.retire_partitions(timestamptz)
    TO arqonbus_writer;
GRANT SELECT ON arqonbus.events, arqonbus.episodes, arqonbus.dead_letters TO arqonbus_reader;

DO $$
DECLARE
    named text;
BEGIN
    FOREACH named IN ARRAY ARRAY['events', 'episodes', 'dead_letters', 'books', 'audit', 'audit_heads'] LOOP
        EXECUTE format('ALTER TABLE arqonbus.%I ENABLE ROW LEVEL SECURITY', named);
        EXECUTE format('CREATE POLICY every_tenant ON arqonbus.%I TO arqonbus_writer USING (true) WITH CHECK (true)',
                       named);
    END LOOP;
    FOREACH named IN ARRAY ARRAY['events', 'episodes', 'dead_letters'] LOOP
        EXECUTE format('CREATE POLICY own_tenant ON arqonbus.%I FOR SELECT TO arqonbus_reader '
                       'USING (tenant_id = (SELECT arqonbus.reader_tenant()))', named);
    END LOOP;
END
$$;
