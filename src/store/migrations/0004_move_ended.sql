-- When a move ended, in microseconds. NULL while it waits, and for moves that
-- ended before there was this column.
ALTER TABLE moves ADD COLUMN ended_at BIGINT;
