//! The schema, and the way to it from every older one. `user_version` counts the steps taken; steps are only ever added.

use rusqlite::Connection;

use crate::{Error, ErrorKind, Result};

/// "FFry": marks the file as ours.
const APPLICATION: i32 = 0x4646_7279;
const STEPS: &[&str] =
    &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql"), include_str!("schema_4.sql")];

/// Refuses, without writing, a file of a newer version or of another program.
pub(super) fn check(connection: &Connection) -> Result<()> {
    // One snapshot: between two looks another process may create the tables and leave its mark.
    let snapshot = connection.unchecked_transaction()?;
    check_against(&snapshot, STEPS.len())
}

fn check_against(connection: &Connection, newest: usize) -> Result<()> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version = version(connection)?;
    if application == 0 && version == 0 {
        let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            return Ok(());
        }
    }
    if application != APPLICATION {
        return Err(Error::bare(ErrorKind::Corrupt).reason("it is the database of another program"));
    }
    if version > newest {
        let text = format!("a newer FileFerry wrote it: its schema is {version} and this program knows {newest}");
        return Err(Error::bare(ErrorKind::Newer).reason(text));
    }
    Ok(())
}

pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    migrate_along(connection, STEPS)
}

fn migrate_along(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    if version(connection)? == steps.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Again under the lock: another process may have migrated, or be newer, in between.
    check_against(&transaction, steps.len())?;
    for (index, step) in steps.iter().enumerate().skip(version(&transaction)?) {
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.commit()?;
    Ok(())
}

pub(super) fn version(connection: &Connection) -> Result<usize> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    usize::try_from(version).map_err(|_| Error::bare(ErrorKind::Corrupt).reason(format!("its schema version is {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn each_version_is_reached_from_the_one_before() {
        let mut whole = Connection::open_in_memory().unwrap();
        migrate(&mut whole).unwrap();
        let mut stepwise = Connection::open_in_memory().unwrap();
        for known in 1..=STEPS.len() {
            migrate_along(&mut stepwise, &STEPS[..known]).unwrap();
            assert_eq!(version(&stepwise).unwrap(), known);
        }
        assert_eq!(shape(&whole), shape(&stepwise));
    }

    #[test]
    fn a_manifest_of_the_first_version_is_kept() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_along(&mut connection, &STEPS[..1]).unwrap();
        let old = "INSERT INTO transfers VALUES (1, 'aaaaaaaaaaaaaaaa', 1, 'i', 's', 'd', '{}', 'paused', NULL, NULL, 1, 1, 1, 1, 0, 0, NULL);
                   INSERT INTO files VALUES (4294967296, 1, 'k', '/k', 1, '{}', 'delivered', 1, 1, NULL, NULL, NULL, NULL, 1, 1, 'line', 0)";
        connection.execute_batch(old).unwrap();
        migrate(&mut connection).unwrap();
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
        let kept = connection.query_row("SELECT receipt, original FROM files", [], read).unwrap();
        assert_eq!(kept, ("line".to_owned(), None));
    }

    // SEMANTICS S55: "A state file that a newer version wrote is refused and not touched; one of an older version goes on
    // with its rows."
    #[test]
    fn a_store_of_the_second_version_goes_on_with_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        migrate_along(&mut connection, &STEPS[..2]).unwrap();
        let old = "INSERT INTO transfers VALUES (7, 'aaaaaaaaaaaaaaaa', 2, 'i', 's', 'd', '{}', 'in_progress', NULL, NULL, 1, 1, 1, 1, 0, 0, NULL);
                   INSERT INTO files VALUES (30064771072, 7, 'k', '/k', 1, '{}', 'in_progress', 1, 1, 'c', 'i', NULL, NULL, 1, 1, NULL, 0, NULL);
                   INSERT INTO deliveries VALUES ('d', '/k', 's', 'k', NULL, NULL, 1, NULL, NULL, NULL, 0, 'aaaaaaaaaaaaaaaa', 0);
                   INSERT INTO leases VALUES ('transfer/a', 'h', 1, '1', 'b', 4, 9);
                   INSERT INTO destinations VALUES ('d', NULL, NULL, NULL, 2, NULL, '{}')";
        connection.execute_batch(old).unwrap();
        let rows = |connection: &Connection| {
            let sql = "SELECT (SELECT json_array(t.id, t.run, t.state) FROM transfers t), (SELECT json_array(checkpoint, intent, original) FROM files),
                       (SELECT count(*) FROM deliveries), (SELECT epoch FROM leases), (SELECT breaker_failures FROM destinations)";
            let read =
                |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, [row.get(2)?, row.get(3)?, row.get(4)?]));
            connection
                .query_row(sql, [], read)
                .map(|(transfer, file, counts): (String, String, [i64; 3])| (transfer, file, counts))
                .unwrap()
        };
        let before = rows(&connection);
        migrate(&mut connection).unwrap();
        assert_eq!(rows(&connection), before);
        // A transfer from before is no governed one, and can become one.
        let governed = "INSERT INTO requests SELECT seq, state, 1, 'u', 'c', 's', 5, 'h', 'auto', NULL, NULL, NULL, NULL, 'none', NULL, NULL, NULL, 0, 0, 0 FROM transfers";
        assert_eq!(connection.query_row("SELECT count(*) FROM requests", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
        connection.execute_batch(governed).unwrap();
    }

    #[test]
    fn a_service_of_the_third_version_goes_on_and_its_audit_begins() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_along(&mut connection, &STEPS[..3]).unwrap();
        let old = "INSERT INTO transfers VALUES (7, 'aaaaaaaaaaaaaaaa', 2, 'i', 's', 'd', '{}', 'held', NULL, NULL, 1, 1, 1, 1, 0, 0, NULL);
                   INSERT INTO requests SELECT seq, state, 1, 'u', 'c', 's', 5, 'h', 'auto', NULL, NULL, NULL, NULL, 'none', NULL, NULL, NULL, 0, 0, 0 FROM transfers;
                   INSERT INTO connectors VALUES ('c', 3, '{}', 'mia', 0)";
        connection.execute_batch(old).unwrap();
        migrate(&mut connection).unwrap();
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((count("SELECT count(*) FROM requests"), count("SELECT version FROM connectors")), (1, 3));
        assert_eq!((count("SELECT count(*) FROM audit"), count("SELECT count(*) FROM user_contexts")), (0, 0));
    }

    #[test]
    fn each_version_is_refused_untouched_by_the_one_before() {
        for known in 1..STEPS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate_along(&mut connection, &STEPS[..known + 1]).unwrap();
            let before = shape(&connection);
            let error = migrate_along(&mut connection, &STEPS[..known]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Newer);
            assert_eq!((version(&connection).unwrap(), shape(&connection)), (known + 1, before));
        }
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let before = shape(&connection);
        let broken: Vec<&str> = STEPS.iter().copied().chain(["CREATE TABLE extra (a); CREATE TABLE extra (a);"]).collect();
        migrate_along(&mut connection, &broken).unwrap_err();
        assert_eq!(version(&connection).unwrap(), STEPS.len());
        assert_eq!(shape(&connection), before);
    }

    #[test]
    fn the_database_of_another_program_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert_eq!(check(&connection).unwrap_err().kind, ErrorKind::Corrupt);
        assert_eq!(migrate(&mut connection).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
