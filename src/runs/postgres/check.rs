//! What `janitor check` says of a Postgres store.

use super::{FENCE_TABLE, PostgresStore};
use crate::runs::{Findings, StoreError, layout::Index};

/// Which of the tables with these names a real run may not delete from, and which it may not lock or read.
const LACKING: &str = "SELECT name, NOT has_table_privilege(to_regclass(name), 'DELETE'), NOT has_table_privilege(to_regclass(name), 'SELECT') \
                       FROM unnest($1::text[]) AS name ORDER BY name";
/// Whether there is an index that is valid, covers all rows and begins with these columns.
const HAS_INDEX: &str = "SELECT EXISTS (SELECT 1 FROM pg_index AS i WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL \
                         AND (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
                              JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= cardinality($2::text[])) = $2::text[])";
/// Whether the checkpoints have an index of their keys by bytes.
const HAS_BYTES: &str = "SELECT EXISTS (SELECT 1 FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
                         JOIN pg_collation AS o ON o.oid = i.indcollation[0] WHERE i.indrelid = to_regclass('checkpoints') \
                         AND i.indisvalid AND a.attname = 'step_run_id' AND o.collname = 'C')";
/// Who we are, whether we may lock runs, whether the table of fences is there, and whether we may make or else use it.
const RIGHTS: &str = "SELECT quote_ident(current_user), has_table_privilege(to_regclass($1), 'UPDATE'), f.oid IS NOT NULL, \
                      CASE WHEN f.oid IS NULL THEN coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) \
                      ELSE has_table_privilege(f.oid, 'SELECT') AND has_table_privilege(f.oid, 'INSERT') AND has_table_privilege(f.oid, 'UPDATE') END \
                      FROM (SELECT to_regclass('janitor_fence')::oid AS oid) AS f";

impl PostgresStore {
    pub(super) async fn findings(&self) -> Result<Findings, StoreError> {
        let mut found = Findings::default();
        let kind = if self.is_distributed { "spread by Citus" } else { "on one server" };
        found.facts.push(format!(
            "{}: {}: the tables of layout {:?} are there, {kind}",
            self.name, self.place, self.layout.name
        ));
        let owned = self.layout.owned.iter().map(|(table, _)| *table);
        let missing: Vec<&str> = owned.filter(|table| !self.tables.has(table)).collect();
        if !missing.is_empty() {
            found.facts.push(format!("{}: an older schema, without {}", self.name, missing.join(", ")));
        }
        self.look_at_indexes(&mut found).await?;
        self.look_at_rights(&mut found).await?;
        Ok(found)
    }

    async fn look_at_indexes(&self, found: &mut Findings) -> Result<(), StoreError> {
        let layout = self.layout;
        let owned = layout.owned.iter().map(|(table, _)| *table).filter(|table| self.tables.has(table));
        let mut wanted: Vec<(&str, &[&str], String)> = [&layout.page_index, &layout.parent_index]
            .map(|Index { columns, create }| (layout.runs, *columns, (*create).to_owned()))
            .into();
        wanted.extend(
            owned.map(|table| (table, &["run_id"][..], format!("CREATE INDEX idx_{table}_run_id ON {table}(run_id)"))),
        );
        for (table, columns, create) in wanted {
            let query = sqlx::query_scalar(HAS_INDEX).bind(table).bind(columns);
            if !self.read(query.fetch_one(&self.pool)).await? {
                found.warnings.push(format!(
                    "{}: no index on {table}({}), each batch reads the whole table: {}",
                    self.name,
                    columns.join(", "),
                    // Citus makes indexes of all shards, and knows no other way that lets writers go on either.
                    create.replacen("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)
                ));
            }
        }
        if self.tables.has("checkpoints")
            && !self.keys.are_in_order()
            && !self.read(sqlx::query_scalar(HAS_BYTES).fetch_one(&self.pool)).await?
        {
            found.warnings.push(format!(
                "{}: the database's order of texts scatters the checkpoints of a run, each batch reads all of them without: \
                 CREATE INDEX CONCURRENTLY idx_checkpoints_bytes ON checkpoints (step_run_id COLLATE \"C\")",
                self.name
            ));
        }
        Ok(())
    }

    async fn look_at_rights(&self, found: &mut Findings) -> Result<(), StoreError> {
        let names: Vec<&str> = self.tables.names().filter(|name| *name != "schema_versions").collect();
        let lacking: Vec<(String, bool, bool)> =
            self.read(sqlx::query_as(LACKING).bind(names).fetch_all(&self.pool)).await?;
        let query = sqlx::query_as(RIGHTS).bind(self.layout.runs);
        let (user, may_lock, has_fence, may_fence): (String, bool, bool, bool) =
            self.read(query.fetch_one(&self.pool)).await?;
        let mut warn = |may_not: &str, right: &str, tables: &[&str]| {
            if !tables.is_empty() {
                let tables = tables.join(", ");
                found
                    .warnings
                    .push(format!("{}: the user may not {may_not}: GRANT {right} ON {tables} TO {user}", self.name));
            }
        };
        warn("read", "SELECT", &Vec::from_iter(lacking.iter().filter(|row| row.2).map(|row| row.0.as_str())));
        warn("delete", "DELETE", &Vec::from_iter(lacking.iter().filter(|row| row.1).map(|row| row.0.as_str())));
        // Postgres lets nobody lock a row that he may not update.
        warn("lock runs", "UPDATE", Some(self.layout.runs).filter(|_| !may_lock).as_slice());
        let fence_rights = "SELECT, INSERT, UPDATE";
        let fence = Some("janitor_fence").filter(|_| has_fence && !may_fence);
        warn("use the table of fences", fence_rights, fence.as_slice());
        match (has_fence, may_fence) {
            (true, _) => {}
            (false, true) => found.facts.push(format!("{}: the first real run makes the table janitor_fence", self.name)),
            (false, false) => found.warnings.push(format!(
                "{}: the user may not make the table that real runs need: {FENCE_TABLE}; GRANT {fence_rights} ON janitor_fence TO {user}",
                self.name
            )),
        }
        Ok(())
    }
}
