//! A server that speaks TLS, and how much of it a URL asks for.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::postgres_world::{FRESH, open};
use crate::postgres::{Database, TlsServer};

#[tokio::test]
async fn speaks_tls_as_the_url_asks_for_it() {
    // Without the server of the other tests this one is left out with them.
    drop(Database::new());
    let server = TlsServer::start();
    let mut owner = PgConnection::connect(&server.url("")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(FRESH)).execute(&mut owner).await.unwrap();
    let vouched = format!("&sslrootcert={}", server.authority().display());
    for options in ["?sslmode=require".to_owned(), format!("?sslmode=verify-full{vouched}")] {
        let store = open(&server.url(&options)).await.unwrap();
        let text = "SELECT bool_and(s.ssl), count(*) > 0 FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a ON a.pid = s.pid \
                    WHERE a.application_name = 'apalis-janitor'";
        let is_spoken: (Option<bool>, bool) = sqlx::query_as(text).fetch_one(&mut owner).await.unwrap();
        assert_eq!(is_spoken, (Some(true), true), "{options}");
        drop(store);
    }
    // Nobody whom this host trusts vouches for it.
    let error = open(&server.url("?sslmode=verify-full")).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("certificate") && !source.contains("unasked"), "{source}");
}
