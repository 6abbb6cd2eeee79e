//! A server that speaks TLS, and how much of it a URL asks for.

use sqlx::AssertSqlSafe;

use super::mysql::{SCHEMA, open};
use crate::mysql::Server;

#[tokio::test]
async fn speaks_tls_as_the_url_asks_for_it() {
    let server = Server::start_with_tls();
    let database = server.database();
    let mut owner = database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(SCHEMA)).execute(&mut owner).await.unwrap();
    // Who does not speak TLS is not let in.
    let (user, password) = ("only_tls", "s3cret-tls");
    database.admin(&format!(
        "CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{password}' REQUIRE SSL; GRANT ALL ON *.* TO {user}@'127.0.0.1'"
    ));
    let url = database.url_as(user, password);
    let vouched = format!("&ssl-ca={}", server.authority().display());
    for options in ["?ssl-mode=REQUIRED".to_owned(), format!("?ssl-mode=VERIFY_IDENTITY{vouched}")] {
        open(&format!("{url}{options}")).await.unwrap_or_else(|error| panic!("{options}: {error:?}"));
    }
    let told = |error: apalis_janitor::runs::StoreError| std::error::Error::source(&error).unwrap().to_string();
    let plain = told(open(&format!("{url}?ssl-mode=DISABLED")).await.unwrap_err());
    assert!(plain.contains("Access denied") && !plain.contains(password), "{plain}");
    // Nobody whom this host trusts vouches for it.
    let unknown = told(open(&format!("{url}?ssl-mode=VERIFY_IDENTITY")).await.unwrap_err());
    assert!(unknown.contains("certificate") && !unknown.contains(password), "{unknown}");
}
