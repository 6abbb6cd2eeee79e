//! What a user must be allowed to do, and is not.

use std::collections::BTreeSet;

use super::{
    CassandraStore, NAME,
    cql::Failed,
    fence::{CREATE, FENCES, MARKERS},
    schema::TABLES,
};
use crate::runs::Findings;

/// What the server says that allows everybody everything.
const ALLOWS_ALL: &str = "AllowAllAuthorizer";

/// What is granted: a permission on a resource, as the server lists them.
type Granted = BTreeSet<(String, String)>;

impl CassandraStore {
    /// Adds what the user lacks, with the statement that grants it.
    pub(super) async fn look_at_rights(&self, found: &mut Findings) -> Result<(), Failed> {
        // Whom the server does not ask for his name he has none that anything could be granted to.
        let Some((user, _)) = self.url.expose_user() else { return Ok(()) };
        let user = format!("\"{}\"", user.replace('"', "\"\""));
        let granted = match self.granted(&user).await {
            Ok(Some(granted)) => granted,
            Ok(None) => return Ok(()),
            Err(Failed::Other(what) | Failed::Forbidden(what)) => {
                found.facts.push(format!("{NAME}: the server does not say what {user} may do: {what}"));
                return Ok(());
            }
            Err(slow @ Failed::Slow(_)) => return Err(slow),
        };
        let keyspace = self.url.keyspace.as_str();
        let own = [FENCES, MARKERS].into_iter().filter(|_| self.own.are_there());
        let tables: Vec<&str> = TABLES.iter().map(|(table, _)| *table).chain(own).collect();
        for (right, may_not) in [("SELECT", "read"), ("MODIFY", "delete and write")] {
            let lacking: Vec<&str> =
                tables.iter().copied().filter(|table| !covers(&granted, right, keyspace, Some(table))).collect();
            if !lacking.is_empty() {
                found.warnings.push(format!(
                    "{NAME}: the user may not {may_not} {}: GRANT {right} ON KEYSPACE {keyspace} TO {user}",
                    lacking.join(", ")
                ));
            }
        }
        if !self.own.are_there() && !covers(&granted, "CREATE", keyspace, None) {
            found.warnings.push(format!(
                "{NAME}: the user may not make the tables that real runs need: {}; or GRANT CREATE ON KEYSPACE {keyspace} TO {user}",
                CREATE.join("; ")
            ));
        }
        Ok(())
    }

    /// What the user has been granted, by himself or by his roles; none where he may do everything.
    async fn granted(&self, user: &str) -> Result<Option<Granted>, Failed> {
        for role in self.cql.list(&format!("LIST ROLES OF {user}")).await? {
            // The columns are the name and whether it may do everything, and others.
            if role.get(1).is_some_and(|is_super| is_super == "true") {
                return Ok(None);
            }
        }
        let rows = match self.cql.list(&format!("LIST ALL PERMISSIONS OF {user}")).await {
            Err(Failed::Other(what)) if what.contains(ALLOWS_ALL) => return Ok(None),
            rows => rows?,
        };
        // The last columns are the resource and the permission.
        let pair = |row: Vec<String>| {
            let [.., resource, right] = <[String; 4]>::try_from(row).ok()?;
            Some((right, resource))
        };
        Ok(Some(rows.into_iter().filter_map(pair).collect()))
    }
}

/// Whether something granted is a right on this table of the keyspace, or on the keyspace.
fn covers(granted: &Granted, right: &str, keyspace: &str, table: Option<&str>) -> bool {
    let above = ["<all keyspaces>".to_owned(), format!("<keyspace {keyspace}>"), format!("<all tables in {keyspace}>")];
    let own = table.map(|table| format!("<table {keyspace}.{table}>"));
    above.into_iter().chain(own).any(|resource| granted.contains(&(right.to_owned(), resource)))
}
