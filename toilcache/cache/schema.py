"""The tables of the cache's database, and the triggers that keep its sums.

Text only. Must not know connections. The four tables are those of the specification (line 1140 and on), with
these additions: a file knows the modification time and executability of its payload, the lock file of its
download, when it was last used and by how many references it is pinned; a reference knows the size it stands
for and whether it is the file that the job itself wrote; a job is (id, attempt) and knows whether one of its
files was changed under it (`harmed`).
"""

from __future__ import annotations

FORMAT = 1

CACHED, DOWNLOADING, UPLOADABLE, UPLOADING, DELETING = (
    *("cached", "downloading", "uploadable"),
    *("uploading", "deleting"),
)
IMMUTABLE, COPYING, MUTABLE = "immutable", "copying", "mutable"

TABLES = """
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    state TEXT NOT NULL CHECK (state IN ('cached', 'downloading', 'uploadable', 'uploading', 'deleting')),
    owner TEXT,
    mtime_ns INTEGER NOT NULL,
    executable INTEGER NOT NULL,
    lock TEXT,
    used INTEGER NOT NULL,
    hits INTEGER NOT NULL DEFAULT 0,
    pins INTEGER NOT NULL DEFAULT 0 CHECK (pins >= 0),
    CHECK ((state = 'cached') = (owner IS NULL)),
    CHECK ((state = 'downloading') = (lock IS NOT NULL))
) WITHOUT ROWID;
CREATE INDEX files_owner ON files (owner) WHERE owner IS NOT NULL;
CREATE INDEX files_evictable ON files (used) WHERE state = 'cached' AND pins = 0;

CREATE TABLE refs (
    ref INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    file_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('immutable', 'copying', 'mutable')),
    size INTEGER NOT NULL,
    source INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX refs_file ON refs (file_id);
CREATE INDEX refs_job ON refs (job_id, attempt);

CREATE TABLE jobs (
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    name TEXT NOT NULL,
    tempdir TEXT NOT NULL,
    disk INTEGER NOT NULL,
    worker TEXT,
    harmed TEXT,
    PRIMARY KEY (id, attempt)
) WITHOUT ROWID;
CREATE INDEX jobs_worker ON jobs (worker);

CREATE TABLE properties (
    name TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
INSERT INTO properties VALUES ('used', 0), ('dedicated', 0), ('reserved', 0),
    ('misses', 0), ('evictions', 0);

CREATE TRIGGER files_in AFTER INSERT ON files BEGIN
    UPDATE properties SET value = value + NEW.size WHERE name = 'used';
END;
CREATE TRIGGER files_out AFTER DELETE ON files BEGIN
    UPDATE properties SET value = value - OLD.size WHERE name = 'used';
    UPDATE refs SET state = 'mutable' WHERE file_id = OLD.id AND state != 'mutable';
END;
CREATE TRIGGER files_resized AFTER UPDATE OF size ON files WHEN NEW.size != OLD.size BEGIN
    UPDATE properties SET value = value + NEW.size - OLD.size WHERE name = 'used';
    UPDATE refs SET size = NEW.size WHERE file_id = NEW.id AND state != 'mutable';
END;

CREATE TRIGGER refs_in AFTER INSERT ON refs WHEN NEW.state != 'mutable' BEGIN
    UPDATE files SET pins = pins + 1 WHERE id = NEW.file_id;
    UPDATE properties SET value = value + NEW.size WHERE name = 'dedicated' AND NEW.state = 'immutable';
END;
CREATE TRIGGER refs_out AFTER DELETE ON refs WHEN OLD.state != 'mutable' BEGIN
    UPDATE files SET pins = pins - 1 WHERE id = OLD.file_id;
    UPDATE properties SET value = value - OLD.size WHERE name = 'dedicated' AND OLD.state = 'immutable';
END;
CREATE TRIGGER refs_changed AFTER UPDATE OF state, size ON refs BEGIN
    UPDATE files SET pins = pins + (NEW.state != 'mutable') - (OLD.state != 'mutable')
        WHERE id = NEW.file_id AND (NEW.state = 'mutable') != (OLD.state = 'mutable');
    UPDATE properties
        SET value = value + NEW.size * (NEW.state = 'immutable') - OLD.size * (OLD.state = 'immutable')
        WHERE name = 'dedicated';
END;

CREATE TRIGGER jobs_in AFTER INSERT ON jobs BEGIN
    UPDATE properties SET value = value + NEW.disk WHERE name = 'reserved';
END;
CREATE TRIGGER jobs_out AFTER DELETE ON jobs BEGIN
    UPDATE properties SET value = value - OLD.disk WHERE name = 'reserved';
END;
CREATE TRIGGER jobs_changed AFTER UPDATE OF disk ON jobs BEGIN
    UPDATE properties SET value = value + NEW.disk - OLD.disk WHERE name = 'reserved';
END;
"""


def statements() -> list[str]:
    """Give the statements one by one: each is a step of its own."""
    found, part = [], ""
    for line in TABLES.splitlines(keepends=True):
        part += line
        whole = part.rstrip().endswith("END;") if "CREATE TRIGGER" in part else part.rstrip().endswith(";")
        if whole:
            found.append(part.strip())
            part = ""
    return found
