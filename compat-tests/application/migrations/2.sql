ALTER TABLE rows ADD stored timestamptz NOT NULL DEFAULT now();
