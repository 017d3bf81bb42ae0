-- arqonbus: expand
-- How far each room of the log had come, kept outside the engine: an engine that lost its newest messages cannot
-- tell that it did. A row never goes back. Unlogged, so that it does not come back either: rows of an earlier time,
-- restored together with the engine of that time, would say that nothing is missing.
CREATE UNLOGGED TABLE arqonbus.witness (
    tenant_id       text COLLATE "C" NOT NULL,
    room            text COLLATE "C" NOT NULL,
    epoch           text COLLATE "C" NOT NULL,
    last            bigint NOT NULL,
    run             text NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, room)
) WITH (fillfactor = 50);
COMMENT ON COLUMN arqonbus.witness.run IS 'The server, from its start to its end, that gave the sequence.';

GRANT SELECT, INSERT, UPDATE ON arqonbus.witness TO arqonbus_writer;
ALTER TABLE arqonbus.witness ENABLE ROW LEVEL SECURITY;
CREATE POLICY every_tenant ON arqonbus.witness TO arqonbus_writer USING (true) WITH CHECK (true);
