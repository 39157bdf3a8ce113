-- Where a closing pool goes: 'idle' or 'stopped'. NULL, for those that were
-- closing before there was a choice, is 'stopped'.
ALTER TABLE pools ADD COLUMN closing_to TEXT;

-- Since when nothing needs a pool, in microseconds; NULL while something does.
-- Pools that were left before there was this column keep running until the next
-- move of their environment, which finds them.
ALTER TABLE pools ADD COLUMN left_at BIGINT;
CREATE INDEX pools_left ON pools (left_at) WHERE left_at IS NOT NULL;

-- Outcomes of a move, set once.
ALTER TABLE promotions ADD COLUMN previous_drained_at BIGINT;
ALTER TABLE promotions ADD COLUMN streams_cut BIGINT;
