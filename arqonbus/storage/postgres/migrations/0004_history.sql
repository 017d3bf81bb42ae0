-- arqonbus: expand
-- The messages of rooms with a durable history, as long as the engine holds them too: what a room is filled from
-- when its engine lost it. An append counts only while `history_rooms` has the epoch that it was made in, so that
-- nothing comes in behind the back of a node that fills the room.
CREATE TABLE arqonbus.history_rooms (
    tenant_id       text COLLATE "C" NOT NULL,
    room            text COLLATE "C" NOT NULL,
    epoch           text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, room)
);

CREATE TABLE arqonbus.history (
    tenant_id       text COLLATE "C" NOT NULL,
    room            text COLLATE "C" NOT NULL,
    sequence        bigint NOT NULL,
    time_us         bigint NOT NULL,
    id              text COLLATE "C" NOT NULL,
    channel         text COLLATE "C" NOT NULL,
    data            bytea NOT NULL,
    PRIMARY KEY (tenant_id, room, sequence)
);
COMMENT ON COLUMN arqonbus.history.data IS 'The envelope as the bus keeps it, protobuf.';

GRANT SELECT, INSERT, UPDATE, DELETE ON arqonbus.history_rooms, arqonbus.history TO arqonbus_writer;
ALTER TABLE arqonbus.history_rooms ENABLE ROW LEVEL SECURITY;
ALTER TABLE arqonbus.history ENABLE ROW LEVEL SECURITY;
CREATE POLICY every_tenant ON arqonbus.history_rooms TO arqonbus_writer USING (true) WITH CHECK (true);
CREATE POLICY every_tenant ON arqonbus.history TO arqonbus_writer USING (true) WITH CHECK (true);
