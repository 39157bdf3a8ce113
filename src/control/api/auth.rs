//! Who is asking: the API key of a request.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::control::{Control, Error, keys};
use crate::rest::KEY_HEADER;

/// Name of the key that a request came with.
#[derive(Clone, Debug)]
pub(super) struct Actor(pub String);

/// The same, of a key that may do everything.
#[derive(Clone, Debug)]
pub(super) struct Admin(pub Actor);

/// The role that may do everything.
const ADMIN: &str = "admin";

/// Role of the key that a request came with.
#[derive(Clone, Debug)]
struct Role(String);

/// Longest key looked at; ours have 68 characters.
const KEY_MAX: usize = 256;

/// Lets requests below `/api/` through if their key is known.
pub(super) async fn require_key(
    State(control): State<Control>,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    if request.uri().path().starts_with("/api/") {
        let key = key(request.headers()).ok_or(Error::Unauthorized("the request carries no API key"))?;
        // Looked up by its hash: what an attacker could time is the index of hashes, not the key.
        let known = control.store.read().await?.key_by_hash(&keys::hash(key)).await?;
        let known = known.ok_or(Error::Unauthorized("the API key is not known here"))?;
        request.extensions_mut().insert(Actor(known.name));
        request.extensions_mut().insert(Role(known.role));
        refuse_promises(&request)?;
    }
    Ok(next.run(request).await)
}

/// A header that asks for a guarantee is refused rather than ignored.
fn refuse_promises(request: &Request) -> Result<(), Error> {
    if request.headers().contains_key("idempotency-key") && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Error::NotYetSupported(
            "Idempotency-Key is not supported yet; leave it out, and give expected_current_deployment_id to a move \
             that must not happen twice",
        ));
    }
    Ok(())
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        // RFC 9110 §11.1: the scheme's name has no case.
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    };
    let own = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).map(str::trim);
    own.or_else(bearer).filter(|key| !key.is_empty() && key.len() <= KEY_MAX)
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or(Error::Unauthorized("the request carries no API key"))
    }
}

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let actor = Actor::from_request_parts(parts, state).await?;
        match parts.extensions.get::<Role>() {
            Some(Role(role)) if role == ADMIN => Ok(Self(actor)),
            Some(Role(role)) => Err(Error::Forbidden(role.clone())),
            None => Err(Error::Unauthorized("the request carries no API key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_header_carries_the_key() {
        let headers = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert_eq!(key(&headers("x-api-key", " rpt_1 ")), Some("rpt_1"));
        assert_eq!(key(&headers("authorization", "bearer rpt_2")), Some("rpt_2"));
        for (name, value) in [("authorization", "Basic rpt_2"), ("authorization", "rpt_2"), ("x-api-key", "")] {
            assert_eq!(key(&headers(name, value)), None, "{name}: {value}");
        }
        assert_eq!(key(&headers("x-api-key", &"k".repeat(KEY_MAX + 1))), None);
    }
}
