CREATE TABLE rows (text text PRIMARY KEY, worker text NOT NULL);
