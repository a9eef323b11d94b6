-- What became of the source object after its delivery: NULL (nothing yet), 'deleted' or 'archived'.

ALTER TABLE files ADD COLUMN original TEXT;
