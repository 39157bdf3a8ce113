//! HTTP to the server: one request, one answer, every failure named.
//!
//! Knows paths and shapes only as far as it is handed them. Blocking, because a
//! command does one thing at a time.

use std::io::Read;
use std::time::Duration;

use http::{Method, Request, Response, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::cli::error::Error;
use crate::rest::KEY_HEADER;
use crate::rest::page::{LIMIT_MAX, Page};

/// Longest wait for a connection: the server is near, or it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for an answer beyond what it was asked to wait itself: a busy
/// disk may take seconds to commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for an answer to an upload, which is checked and written first.
const UPLOAD_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// An answer is read up to here; a page of a list is far smaller.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Query of a request that has none.
pub const NO_QUERY: [(); 0] = [];

/// A server, and the key it knows us by.
pub struct Client {
    agent: Agent,
    server: String,
    key: Option<String>,
    /// Where the key came from, for the message when it is refused.
    key_origin: String,
}

/// What the server answered, when it did not refuse.
pub struct Answer {
    /// The HTTP status, 200 to 299.
    pub status: u16,
    /// The body as it was.
    pub text: String,
    server: String,
}

impl Answer {
    /// The body as a value.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(&self.text).map_err(|error| Error::NoApi {
            server: self.server.clone(),
            detail: format!("it is not what was expected ({error})"),
        })
    }
}

impl Client {
    /// A client of `server`. Connects when it is used.
    pub fn new(server: &str, key: Option<String>, key_origin: String) -> Result<Self, Error> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_write(Some(ANSWER_TIMEOUT))
            .max_redirects(0)
            // The key goes to the server that was named, not through whatever HTTP_PROXY names.
            .proxy(None)
            .user_agent(concat!("repoint/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), server: address(server)?, key, key_origin })
    }

    /// The server's address, as it is asked.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// GET. `wait` is how long the server was asked to wait itself.
    pub fn get(&self, path: &str, query: &impl Serialize, wait: Duration) -> Result<Answer, Error> {
        let response = self.send(Method::GET, &with_query(path, query), (), wait + ANSWER_TIMEOUT)?;
        self.answer(response)
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &impl Serialize, wait: Duration) -> Result<Answer, Error> {
        let response = self.send(Method::POST, path, json(body), wait + ANSWER_TIMEOUT)?;
        self.answer(response)
    }

    /// PUT of a JSON body.
    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Error> {
        let response = self.send(Method::PUT, path, json(body), ANSWER_TIMEOUT)?;
        self.answer(response)
    }

    /// DELETE.
    pub fn delete(&self, path: &str, query: &impl Serialize) -> Result<Answer, Error> {
        let response = self.send(Method::DELETE, &with_query(path, query), (), ANSWER_TIMEOUT)?;
        self.answer(response)
    }

    /// PUT of bytes as they are read; `length` of them.
    pub fn upload(&self, path: &str, kind: &str, length: u64, bytes: &mut dyn Read) -> Result<Answer, Error> {
        let request = self
            .request(Method::PUT, path)
            .header("content-type", kind)
            .header("content-length", length)
            .body(SendBody::from_reader(bytes));
        let response = self.run(request, UPLOAD_ANSWER_TIMEOUT)?;
        self.answer(response)
    }

    /// POST of bytes as they are read, answered as it comes.
    pub fn exchange(
        &self,
        path: &str,
        query: &impl Serialize,
        kind: &str,
        bytes: &mut dyn Read,
    ) -> Result<ureq::BodyReader<'static>, Error> {
        let request = self.request(Method::POST, &with_query(path, query)).header("content-type", kind);
        let response = self.run(request.body(SendBody::from_reader(bytes)), UPLOAD_ANSWER_TIMEOUT)?;
        self.opened(response)
    }

    /// GET of an answer that is read as it comes, for as long as it comes.
    pub fn stream(&self, path: &str, query: &impl Serialize) -> Result<ureq::BodyReader<'static>, Error> {
        let response = self.send(Method::GET, &with_query(path, query), (), ANSWER_TIMEOUT)?;
        self.opened(response)
    }

    fn opened(&self, response: Response<Body>) -> Result<ureq::BodyReader<'static>, Error> {
        if response.status().is_success() {
            return Ok(response.into_body().into_reader());
        }
        Err(self.answer(response).err().unwrap_or_else(|| self.no_api("an answer that contradicts itself")))
    }

    /// Items of a list, page after page, `limit` at most. `next_cursor` is null unless there are more.
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
        limit: usize,
    ) -> Result<Page<T>, Error> {
        let mut all = Page { items: Vec::new(), next_cursor: None };
        loop {
            let missing = limit - all.items.len();
            let mut pairs = pairs(query);
            pairs.push(("limit".into(), missing.min(LIMIT_MAX as usize).to_string()));
            pairs.extend(all.next_cursor.take().map(|cursor| ("cursor".into(), cursor)));
            let page: Page<T> = self.get(&encoded(path, &pairs), &NO_QUERY, Duration::ZERO)?.read()?;
            let is_empty = page.items.is_empty();
            all.items.extend(page.items);
            all.items.truncate(limit);
            all.next_cursor = page.next_cursor;
            if is_empty || all.next_cursor.is_none() || all.items.len() >= limit {
                return Ok(all);
            }
        }
    }

    /// Why reading a streamed answer failed.
    pub fn broken(&self, error: &std::io::Error) -> Error {
        Error::Unreachable { server: self.server.clone(), reason: format!("the answer broke off ({error})") }
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: impl AsSendBody,
        patience: Duration,
    ) -> Result<Response<Body>, Error> {
        let request = self.request(method, path).header("content-type", "application/json").body(body);
        self.run(request, patience)
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.server));
        match &self.key {
            Some(key) => request.header(KEY_HEADER, key),
            None => request,
        }
    }

    fn run(
        &self,
        request: Result<Request<impl AsSendBody>, http::Error>,
        patience: Duration,
    ) -> Result<Response<Body>, Error> {
        let request = request.map_err(|error| Error::Usage(format!("ask {}: {error}", self.server)))?;
        let request = self.agent.configure_request(request).timeout_recv_response(Some(patience)).build();
        self.agent.run(request).map_err(|error| self.unreachable(error))
    }

    fn answer(&self, mut response: Response<Body>) -> Result<Answer, Error> {
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string();
        let text = body.map_err(|error| self.unreachable(error))?;
        match status {
            200..300 => Ok(Answer { status, text, server: self.server.clone() }),
            401 => Err(self.unauthorized()),
            _ => Err(self.refused(status, &text)),
        }
    }

    fn refused(&self, status: u16, text: &str) -> Error {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| body["error"][name].as_str().map(str::to_owned);
        match (field("code"), field("message")) {
            (Some(code), Some(message)) => Error::Refused { code, message, body },
            _ => self.no_api(&format!("status {status} without the error object of Repoint's API")),
        }
    }

    fn no_api(&self, detail: &str) -> Error {
        Error::NoApi { server: self.server.clone(), detail: detail.to_owned() }
    }

    fn unauthorized(&self) -> Error {
        let reason = match &self.key {
            None => "it wants an API key; give --api-key or REPOINT_API_KEY (the admin key is in the data directory \
                     as admin.key)"
                .to_owned(),
            Some(_) => format!(
                "it does not know the API key from {}; the admin key is in the data directory as admin.key",
                self.key_origin
            ),
        };
        Error::Unauthorized { server: self.server.clone(), reason }
    }

    fn unreachable(&self, error: ureq::Error) -> Error {
        let reason = match error {
            ureq::Error::Io(error) => io_reason(&error),
            ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            ureq::Error::Protocol(error) => return self.no_api(&format!("it is no HTTP ({error})")),
            other => other.to_string(),
        };
        Error::Unreachable { server: self.server.clone(), reason }
    }
}

fn io_reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "it closed the connection before it answered".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A server's address without the trailing slash; `http://` goes without saying.
fn address(text: &str) -> Result<String, Error> {
    let wrong = |why: &str| Err(Error::Usage(format!("use {text:?} as a server: {why}")));
    let text = text.trim();
    if text.starts_with("https://") {
        return wrong("https is not supported by the command line yet; use the server's http:// address");
    }
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let address = format!("http://{bare}");
    // A user and a password would be sent nowhere: the key is what the server knows.
    let is_plain = !bare.is_empty() && !bare.contains("://") && !bare.contains('@');
    match address.parse::<Uri>() {
        Ok(uri) if is_plain && uri.query().is_none() => Ok(address),
        _ => wrong("give it as http://127.0.0.1:8090"),
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("REST shapes have string keys and no map or number that JSON lacks")
}

fn with_query(path: &str, query: &impl Serialize) -> String {
    encoded(path, &pairs(query))
}

/// The fields of a query shape, as they stand in a URL.
fn pairs(query: &impl Serialize) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(query) else { return Vec::new() };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    fields.into_iter().map(|(name, value)| (name, text(value))).collect()
}

fn encoded(path: &str, pairs: &[(String, String)]) -> String {
    let mut text = path.to_owned();
    for (at, (name, value)) in pairs.iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            // RFC 3986 §2.3: everything but the unreserved characters is encoded.
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::Fake;

    fn client(server: &str) -> Client {
        Client::new(server, Some("key".into()), "--api-key".into()).unwrap()
    }

    fn get(client: &Client) -> Result<Answer, Error> {
        client.get("/api/v1/projects", &NO_QUERY, Duration::ZERO)
    }

    #[test]
    fn addresses_are_plain_http_with_or_without_the_scheme() {
        for good in ["127.0.0.1:8090", "http://localhost:8090/", "http://[::1]:8090", "http://proxy.example/repoint"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "http://", "ftp://a", "http://user:pw@a", "http://a b", "http://a?x=1"] {
            assert_eq!(address(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert!(address("https://a").unwrap_err().to_string().contains("https is not supported"));
    }

    #[test]
    fn a_server_that_is_down_is_named_with_what_to_do() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = get(&client(&format!("http://127.0.0.1:{port}"))).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("connection refused") && text.contains("is `repoint up` running?"), "{text}");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_wrong_key_and_a_missing_one_are_told_apart() {
        let body = r#"{"error":{"code":"unauthorized","message":"no","details":{}}}"#;
        let fake = Fake::start(move |_| (401, body.to_owned()));
        let wrong = get(&client(&fake.url())).err().unwrap().to_string();
        assert!(wrong.contains("does not know the API key from --api-key"), "{wrong}");
        assert!(fake.asked()[0].headers.contains("x-api-key: key"));
        let keyless = Client::new(&fake.url(), None, String::new()).unwrap();
        assert!(get(&keyless).err().unwrap().to_string().contains("it wants an API key"));
    }

    #[test]
    fn the_servers_own_words_are_passed_on() {
        let body = r#"{"error":{"code":"of_a_newer_server","message":"do that first","details":{"a":1}}}"#;
        let fake = Fake::start(move |_| (409, body.to_owned()));
        let error = get(&client(&fake.url())).err().unwrap();
        assert_eq!(error.line(), "error: do that first");
        assert_eq!(error.json().to_string(), serde_json::from_str::<Value>(body).unwrap().to_string());
    }

    #[test]
    fn somebody_elses_server_is_recognised() {
        let answers = [(404, "<html>"), (200, "<html>"), (502, "{}"), (302, ""), (500, "{\"error\":\"x\"}")];
        for (status, body) in answers {
            let fake = Fake::start(move |_| (status, body.to_owned()));
            let read = get(&client(&fake.url())).and_then(|answer| answer.read::<Page<Value>>());
            let text = read.unwrap_err().to_string();
            assert!(text.contains("is this the API address"), "{status}: {text}");
        }
    }

    #[test]
    fn what_is_no_http_is_recognised() {
        let fake = Fake::start_raw("SSH-2.0-x\r\n\r\n");
        let error = get(&client(&fake.url())).err().unwrap().to_string();
        assert!(error.contains("is this the API address") || error.contains("closed the connection"), "{error}");
    }

    #[test]
    fn lists_are_read_page_after_page() {
        let fake = Fake::start(|asked| match asked.line.contains("cursor") {
            false => (200, r#"{"items":[1,2],"next_cursor":"a+b/="}"#.to_owned()),
            true => (200, r#"{"items":[3,4],"next_cursor":"c"}"#.to_owned()),
        });
        let page = client(&fake.url()).list::<u32>("/x", &NO_QUERY, 3).unwrap();
        assert_eq!((page.items, page.next_cursor.as_deref()), (vec![1, 2, 3], Some("c")));
        assert_eq!(fake.lines(), ["GET /x?limit=3", "GET /x?limit=1&cursor=a%2Bb%2F%3D"]);
    }
}
