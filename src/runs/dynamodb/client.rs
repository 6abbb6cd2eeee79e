//! The client, the server's clock, and what the server's errors mean.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::{
    Client,
    config::{
        Builder, ConfigBag, Credentials, Intercept, ProvideCredentials, Region, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextRef, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{BoxError, DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use chrono::{DateTime, Utc};

use super::{DynamoStore, NAME, TableUrl};
use crate::runs::StoreError;

/// How long one attempt may take, and all attempts of one request.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
const REQUEST_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How often a request is tried that was throttled or met an error of the server's own.
const ATTEMPTS_MAX: u32 = 8;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How often what was left over is sent again.
const ROUNDS_MAX: u32 = 12;

/// The date of the server's latest response, to the second.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerDate(Arc<Mutex<Option<DateTime<Utc>>>>);

impl ServerDate {
    pub(super) fn last(&self) -> Option<DateTime<Utc>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerDate {
    fn name(&self) -> &'static str {
        "ServerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date.map(|date| date.to_utc());
        Ok(())
    }
}

/// A client for the table's region or endpoint.
pub(super) async fn connect(
    url: TableUrl<'_>,
    credentials: Option<Credentials>,
    date: &ServerDate,
) -> Result<Client, StoreError> {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS_MAX)
        .with_initial_backoff(BACKOFF_MIN)
        .with_max_backoff(BACKOFF_MAX);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_MAX)
        .operation_attempt_timeout(ATTEMPT_MAX)
        .operation_timeout(REQUEST_MAX)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(Region::new(url.region.to_owned()))
        .retry_config(retries)
        .timeout_config(timeouts);
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    let unset =
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this host a role";
    let provider = shared.credentials_provider().ok_or_else(|| StoreError::unavailable(NAME, unset))?;
    // Asked for here, because a request would say "dispatch failure" and no more.
    if let Err(error) = provider.provide_credentials().await {
        return Err(StoreError::unavailable(NAME, format!("{unset} ({})", DisplayErrorContext(&error))));
    }
    let mut config = Builder::from(&shared).interceptor(date.clone());
    if let Some(endpoint) = url.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

impl DynamoStore {
    /// What an error of the client's means.
    pub(super) fn error<E>(&self, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let place = &self.place;
        let Some(code) = error.code() else {
            let what = match error {
                SdkError::TimeoutError(_) => format!("no answer within {} s", REQUEST_MAX.as_secs()),
                error => cause(error),
            };
            return StoreError::unavailable(NAME, format!("{place}: {what}"));
        };
        let message = error.message().unwrap_or_default();
        match code {
            "ResourceNotFoundException" => StoreError::Schema { store: NAME, what: format!("{place}: there is none") },
            "AccessDeniedException" => {
                let needs = "a sweep needs DescribeTable, Query, Scan, GetItem, BatchGetItem, PutItem, UpdateItem, DeleteItem, \
                             ConditionCheckItem and BatchWriteItem on the table and its indexes";
                StoreError::unavailable(NAME, format!("{place}: {code}: {message} ({needs})"))
            }
            code => StoreError::unavailable(NAME, format!("{place}: {code}: {message}")),
        }
    }

    /// Waits before what was left over is sent for the `round`th time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it was sent often enough.
    pub(super) async fn back_off(&self, round: u32) -> Result<(), StoreError> {
        if round >= ROUNDS_MAX {
            let what = format!("{}: still throttled after {ROUNDS_MAX} rounds", self.place);
            return Err(StoreError::unavailable(NAME, what));
        }
        let most = (BACKOFF_MIN * 2_u32.saturating_pow(round)).min(BACKOFF_MAX);
        // At random, or all that were throttled together come back together.
        tokio::time::sleep(most.mul_f64(rand::random_range(0.5..1.0))).await;
        Ok(())
    }
}

/// The innermost sources, which say what happened.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        chain.push(inner.to_string());
        source = inner.source();
    }
    let start = chain.len().saturating_sub(2);
    chain[start..].join(": ")
}
