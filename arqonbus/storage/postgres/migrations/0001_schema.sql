-- arqonbus: expand
-- The schema of everything that ArqonBus keeps in Postgres. The ledger of the migrations is not in it: the runner
-- makes that by itself.
CREATE SCHEMA arqonbus;
REVOKE ALL ON SCHEMA arqonbus FROM PUBLIC;
COMMENT ON SCHEMA arqonbus IS 'ArqonBus. Changed by `arqonbus migrate` only.';
