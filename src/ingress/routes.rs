//! What a host would resolve to, for people who ask.
//!
//! The same steps as a request's, `identify` and the table, so that the answer
//! and the codes are those a request gets; nothing is claimed, and nobody is
//! connected to. The admin listener shows it, by way of `app`.

use http::header::{HOST, HeaderName};
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Map, Value, json};

use crate::ingress::config::Config;
use crate::ingress::error::Error;
use crate::ingress::identify::{Asked, identify};
use crate::routing::explain::Way;
use crate::routing::live::Live;
use crate::routing::pool::PoolRoute;
use crate::routing::route::EnvironmentRoute;
use crate::routing::table::Table;

/// What may be asked by, and the header that a request says it with.
const PARAMETERS: [(&str, HeaderName); 4] = [
    ("host", HOST),
    ("deployment", HeaderName::from_static("x-deployment-id")),
    ("project", HeaderName::from_static("x-project")),
    ("environment", HeaderName::from_static("x-environment")),
];

/// What a request with these would be answered: status and facts, or status and
/// error. `host`, and besides it what `X-Deployment-ID`, `X-Project` and
/// `X-Environment` would say: `deployment`, `project`, `environment`. The
/// revision is that of the one table that was asked.
pub fn explain(live: &Live, query: &[(String, String)]) -> (StatusCode, Map<String, Value>) {
    let mut reader = live.reader();
    let asked = match question(query) {
        Ok(request) => identify(&request, &Config::default()).map(|(asked, _)| asked),
        Err(error) => Err(error),
    };
    let mut told = Map::new();
    told.insert("revision".to_owned(), reader.current().loaded_revision().map(|revision| revision.0).into());
    let served = asked.and_then(|asked| follow(reader.current(), &asked, &mut told));
    let Err(error) = served else { return (StatusCode::OK, told) };
    let (status, message) = error.told();
    told.insert("error".to_owned(), json!({ "code": error.code().as_str(), "message": message, "details": {} }));
    (status, told)
}

/// The request that it is about.
fn question(query: &[(String, String)]) -> Result<Request<()>, Error> {
    let mut request = Request::new(());
    for (name, value) in query {
        let header = PARAMETERS.into_iter().find(|(known, _)| known == name).map(|(_, header)| header);
        let header = header.ok_or(Error::BadRequest("ask with host, deployment, project and environment alone"))?;
        let value = HeaderValue::from_str(value);
        let value = value.map_err(|_| Error::BadRequest("a value is none that a header could have"))?;
        request.headers_mut().append(header, value);
    }
    Ok(request)
}

/// Tells what it comes by, as far as it comes.
fn follow(table: &Table, asked: &Asked, told: &mut Map<String, Value>) -> Result<(), Error> {
    let address = asked.address();
    let explained = table.explain(&address);
    if let Some((environment, way)) = explained.matched {
        told.insert("environment".to_owned(), environment_facts(environment));
        told.insert("matched_by".to_owned(), way.as_str().into());
        let chosen_by = match way {
            _ if address.pin.is_some() => "pin",
            Way::DeploymentHost => "deployment_host",
            Way::Host | Way::Wildcard | Way::Headers => "pointer",
        };
        told.insert("chosen_by".to_owned(), chosen_by.into());
    }
    let pool = explained.resolved?.pool;
    told.insert("deployment".to_owned(), json!({ "id": pool.key.deployment.to_string(), "ref": pool.reference() }));
    told.insert("pool".to_owned(), pool_facts(pool));
    let is_ready = pool.endpoints.iter().any(|endpoint| !endpoint.draining);
    if is_ready { Ok(()) } else { Err(Error::NoReadyEndpoint) }
}

fn environment_facts(environment: &EnvironmentRoute) -> Value {
    json!({
        "id": environment.id.to_string(),
        "project": environment.project(),
        "name": environment.name(),
        "pointer": environment.pointer().map(|deployment| deployment.to_string()),
    })
}

fn pool_facts(pool: &PoolRoute) -> Value {
    let endpoint = |at: usize| {
        let endpoint = &pool.endpoints[at];
        json!({
            "id": endpoint.id.to_string(),
            "address": endpoint.address,
            "authority": endpoint.authority.as_deref(),
            "state": if endpoint.draining { "draining" } else { "ready" },
            "in_flight": pool.endpoint_load(at),
        })
    };
    json!({
        "state": if pool.is_open() { "open" } else { "closing" },
        "in_flight": pool.load(),
        "endpoints": (0..pool.endpoints.len()).map(endpoint).collect::<Vec<_>>(),
    })
}
