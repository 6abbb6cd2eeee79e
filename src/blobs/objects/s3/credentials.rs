//! Where the credentials for S3 come from, and what is said where there are none.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{
    CredentialProvider, Error, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider},
};

use super::errors::shown;

/// After this long a host is taken to have no role, and how often it is asked for it again.
const ROLE_MAX: Duration = Duration::from_secs(3);
const ROLE_RETRIES_MAX: usize = 1;
/// What a program that runs somewhere with a role of its own is given in place of a key.
const ROLES: [AmazonS3ConfigKey; 3] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
];

/// The builder with its credentials. Without a key or a role of the program's own it asks the host for one when it needs
/// it, and where the host has none it says what is not set.
///
/// # Errors
/// What is wrong with the variables.
pub(super) fn with(builder: AmazonS3Builder) -> Result<AmazonS3Builder, String> {
    let value = |key: &AmazonS3ConfigKey| builder.get_config_value(key);
    let (key_id, secret) = (value(&AmazonS3ConfigKey::AccessKeyId), value(&AmazonS3ConfigKey::SecretAccessKey));
    match (key_id.as_deref(), secret.as_deref()) {
        (Some(""), _) => return Err("AWS_ACCESS_KEY_ID is set to nothing".to_owned()),
        (_, Some("")) => return Err("AWS_SECRET_ACCESS_KEY is set to nothing".to_owned()),
        (Some(_), None) => return Err("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not".to_owned()),
        (None, Some(_)) => return Err("AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not".to_owned()),
        (Some(_), Some(_)) => return Ok(builder),
        (None, None) => {}
    }
    if ROLES.iter().any(|role| value(role).is_some()) {
        return Ok(builder);
    }
    let retries = RetryConfig { max_retries: ROLE_RETRIES_MAX, retry_timeout: ROLE_MAX, ..RetryConfig::default() };
    let host = builder.clone().with_retry(retries).build().map_err(|error| shown(&error))?;
    Ok(builder.with_credentials(Arc::new(OfTheHost(Arc::clone(host.credentials())))))
}

/// The host's role, and a word on what else would do where it has none.
#[derive(Debug)]
struct OfTheHost(AwsCredentialProvider);

#[async_trait]
impl CredentialProvider for OfTheHost {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>, Error> {
        self.0.get_credential().await.map_err(|error| {
            let unset = "no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set";
            let source = format!("{unset}, and this host has no role to give: {}", shown(&error)).into();
            Error::Generic { store: "S3", source }
        })
    }
}
