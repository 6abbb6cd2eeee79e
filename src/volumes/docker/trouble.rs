//! What went wrong between us and an engine, and what to do.

use std::{error::Error as Cause, io, iter::successors};

use bollard::errors::Error;

use crate::volumes::EngineError;

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Trouble {
    advice: &'static str,
    source: Error,
}

/// The engine's own warnings about its list.
#[derive(Debug, thiserror::Error)]
#[error("the list may lack something, and what is not in it would count as gone: {0}")]
struct Partial(String);

/// `engine` gave a list of which it says itself that something is wrong with it.
pub(super) fn partial(engine: &str, what: &'static str, warnings: &str) -> EngineError {
    EngineError::Unavailable { engine: engine.to_owned(), what, source: Box::new(Partial(warnings.to_owned())) }
}

/// What `error` means, which came instead of an answer of `engine`.
pub(super) fn explain(engine: &str, what: &'static str, error: Error) -> EngineError {
    let engine = engine.to_owned();
    let advice = advice(&error);
    match (advice, error) {
        (None, Error::DockerResponseServerError { status_code, message }) => {
            EngineError::Failed { engine, what, status: status_code, message }
        }
        (Some(advice), source) => {
            EngineError::Unavailable { engine, what, source: Box::new(Trouble { advice, source }) }
        }
        (None, source) => EngineError::Unavailable { engine, what, source: Box::new(source) },
    }
}

const START: &str = "nothing is there: start the engine, or set `engine` to where it listens";

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::SocketNotFoundError(_) => Some(START),
        Error::CertPathError { .. } => Some("`engine_certs` must be a folder with ca.pem, cert.pem and key.pem"),
        // What a Go server says to whoever does not begin with TLS.
        Error::DockerResponseServerError { status_code: 400, message } if message.contains("to an HTTPS server") => {
            Some("it speaks TLS only: set `engine_certs` to a folder with ca.pem, cert.pem and key.pem")
        }
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::APIVersionParseError {} => {
            Some("what answers is no container engine, or one of another kind: set `engine` to where one listens")
        }
        error => causes(error).find_map(of_cause),
    }
}

/// An error with what caused it, from the outside in. What an I/O error wraps is left out by its `source`.
fn causes<'e>(error: &'e (dyn Cause + 'static)) -> impl Iterator<Item = &'e (dyn Cause + 'static)> {
    successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    })
}

fn of_cause(cause: &(dyn Cause + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return of_tls(error);
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(START),
        io::ErrorKind::PermissionDenied => {
            Some("this user may not use the socket: run as a member of its group, which mostly is `docker`")
        }
        _ => None,
    }
}

fn of_tls(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            Some("its certificate is not one that ca.pem vouches for, or is for another host: set `engine_certs`")
        }
        rustls::Error::AlertReceived(_) => {
            Some("it refuses our certificate: cert.pem must be signed by an authority that the engine knows")
        }
        rustls::Error::InvalidMessage(_) => Some("it does not speak TLS: leave out `engine_certs`"),
        _ => None,
    }
}
