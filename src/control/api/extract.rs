//! Reading requests: ids, queries and JSON bodies, with errors that name what
//! is wrong and where.

use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use crate::control::api::auth::Actor;
use crate::control::error::{Error, Noun};
use crate::control::now;
use crate::control::promotion::Caller;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId, PromotionId};
use crate::rest::moves::{WAIT_MS_DEFAULT, WAIT_MS_MAX};
use crate::rest::page::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::store::Page;

/// Largest JSON body: the longest list of hosts or endpoints is far below.
const BODY_MAX: usize = 1024 * 1024;

/// Longest a client may take to send a JSON body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body. An empty one stands for an empty object.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Error> {
        check_content_type(request.headers())?;
        let reading = to_bytes(request.into_body(), BODY_MAX);
        let bytes = tokio::time::timeout(BODY_TIMEOUT, reading)
            .await
            .map_err(|_| Error::Invalid(format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs())))?
            .map_err(|error| unreadable(&error))?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // serde would also take an array, field by field in the order they are declared.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Error::Invalid("the body is a JSON array; give an object with named fields".to_owned()));
    }
    Json::from_bytes(bytes).map(|Json(body)| body).map_err(|rejection| Error::Invalid(told(&rejection)))
}

/// JSON, or nothing said. `curl -d` says something else of its own accord, so the
/// answer names the header.
fn check_content_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let found = String::from_utf8_lossy(value.as_bytes()).chars().take(128).collect::<String>();
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::MediaType { found, wanted: "application/json" })
}

fn unreadable(error: &axum::Error) -> Error {
    let text = error.to_string();
    // axum keeps the kind of this error to itself; its text is the only sign.
    if text.contains("length limit") {
        Error::TooLarge { what: "a JSON body", limit: BODY_MAX as u64 }
    } else {
        Error::Invalid(format!("the body broke off: {text}"))
    }
}

/// Where and what, without axum's preamble about Rust types.
fn told(rejection: &JsonRejection) -> String {
    let text = rejection.body_text();
    let said = text.split_once(": ").map_or(text.as_str(), |(_, said)| said);
    match rejection {
        JsonRejection::JsonSyntaxError(_) => format!("the body is not valid JSON: {said}"),
        _ => format!("the body does not fit: {said}"),
    }
}

/// The parameters after `?`.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match AxumQuery::from_request_parts(parts, state).await {
            Ok(AxumQuery(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let said = text.split_once(": ").map_or(text.as_str(), |(_, said)| said);
                Err(Error::Invalid(format!("the query does not fit: {said}")))
            }
        }
    }
}

/// The part of the path that names an object, as text.
pub(super) struct Text(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Text {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Error::Invalid("the path is no UTF-8 once it is decoded".to_owned()))?;
        Ok(Self(text))
    }
}

/// The id in the path.
pub(super) struct Id<T>(pub T);

/// What an id in a path names.
pub(super) trait Named: FromStr + Send {
    const NOUN: Noun;
}

impl Named for ProjectId {
    const NOUN: Noun = Noun::Project;
}

impl Named for EnvironmentId {
    const NOUN: Noun = Noun::Environment;
}

impl Named for DeploymentId {
    const NOUN: Noun = Noun::Deployment;
}

impl Named for PromotionId {
    const NOUN: Noun = Noun::Promotion;
}

/// Moves are named by their number.
impl Named for u64 {
    const NOUN: Noun = Noun::Move;
}

impl<T: Named, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Text(text) = Text::from_request_parts(parts, state).await?;
        // What cannot be an id is no object's: the same answer, with the same remedy.
        text.parse().map(Self).map_err(|_| Error::not_found(T::NOUN, text))
    }
}

/// Who asks, when, and for how long they wait.
pub(super) fn caller(Actor(actor): Actor, wait_ms: Option<u64>) -> Result<Caller, Error> {
    let wait = wait(wait_ms.or(Some(WAIT_MS_DEFAULT)))?;
    Ok(Caller { actor, at: now(), wait })
}

/// A wait that is within its limit; none unless given.
pub(super) fn wait(wait_ms: Option<u64>) -> Result<Duration, Error> {
    match wait_ms.unwrap_or(0) {
        ms if ms <= WAIT_MS_MAX => Ok(Duration::from_millis(ms)),
        ms => Err(Error::Invalid(format!(
            "wait_ms: {ms} is more than {WAIT_MS_MAX}; wait less, and ask again as often as you like"
        ))),
    }
}

/// Which part of a list is asked for.
pub(super) fn page(limit: Option<u32>, cursor: Option<String>) -> Result<Page, Error> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(Page { limit, after: cursor }),
        limit => Err(Error::Invalid(format!("limit: {limit} is not between 1 and {LIMIT_MAX}"))),
    }
}

/// Refuses a text that is longer than what is kept of it.
pub(super) fn check_length(field: &str, text: Option<&String>, bytes_max: usize) -> Result<(), Error> {
    match text {
        Some(text) if text.len() > bytes_max => Err(Error::Invalid(format!("{field}: give at most {bytes_max} bytes"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::deployments::CreateDeployment;

    fn refusal(text: &str) -> String {
        parse::<CreateDeployment>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let id = "01980000-0000-7000-8000-000000000001";
        let cases = [
            ("{".to_owned(), "not valid JSON", "line 1"),
            ("[1,".to_owned(), "array", "object"),
            (String::new(), "project_id", "missing field"),
            ("7".to_owned(), "CreateDeployment", "line 1"),
            ("{} {}".to_owned(), "project_id", "missing field"),
            (format!("{{\"project_id\":\"{id}\",\n\"mesage\":\"x\"}}"), "mesage", "line 2"),
            (r#"{"project_id":7}"#.to_owned(), "project_id", "line 1"),
            (r#"{"project_id":"nonsense"}"#.to_owned(), "project_id", "UUID"),
            (format!(r#"{{"project_id":"{id}"}}"#), "source", "missing field"),
        ];
        for (text, named, where_) in cases {
            let told = refusal(&text);
            assert!(told.contains(named) && told.contains(where_), "{text}: {told}");
        }
    }

    #[test]
    fn json_is_told_apart_from_what_is_not() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            check_content_type(&headers)
        };
        assert!(check_content_type(&HeaderMap::new()).is_ok());
        assert!(check("application/json; charset=utf-8").is_ok());
        assert!(check("application/merge-patch+json").is_ok());
        let error = check("application/x-www-form-urlencoded").unwrap_err();
        assert!(error.to_string().contains("application/json"), "{error}");
    }

    #[test]
    fn waits_and_pages_have_limits() {
        assert_eq!(wait(None).unwrap(), Duration::ZERO);
        assert_eq!(wait(Some(WAIT_MS_MAX)).unwrap(), Duration::from_secs(60));
        assert!(wait(Some(WAIT_MS_MAX + 1)).is_err());
        assert!(page(Some(0), None).is_err() && page(Some(LIMIT_MAX + 1), None).is_err());
        assert_eq!(page(None, None).unwrap().limit, LIMIT_DEFAULT);
    }
}
