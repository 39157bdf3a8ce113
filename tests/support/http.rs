//! Requests to the ingress over plain sockets, so that a test sees every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// A connection to the ingress, kept open.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The deployment that the ingress says answered.
    #[track_caller]
    pub fn deployment(&self) -> &str {
        self.header("x-deployment-id").unwrap_or_else(|| panic!("no X-Deployment-ID: {self:?}"))
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    Client::connect(address).request("GET", host, path, &[], b"").expect("an answer")
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("the ingress accepts"))
    }

    /// The same, on a connection that is there.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes an option");
        Self { reader: BufReader::new(stream) }
    }

    /// Sends a request and reads the whole answer.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        self.send(method, host, path, headers, body)?;
        self.read()
    }

    /// Reads a whole answer.
    pub fn read(&mut self) -> std::io::Result<Response> {
        let (status, headers) = self.head()?;
        let body = self.body(status, &headers)?;
        Ok(Response { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Sends a request.
    pub fn send(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let stream = self.reader.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    }

    /// Reads status and headers of an answer.
    pub fn head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| std::io::Error::other(format!("no status line: {status:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return Ok((code, headers)),
            }
        }
    }

    /// Reads the next chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    /// The socket, for protocols of their own.
    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    fn body(&mut self, status: u16, headers: &[(String, String)]) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if status == 204 || status == 304 {
            return Ok(body);
        }
        if find(headers, "transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else if let Some(length) = find(headers, "content-length") {
            body.resize(length.parse().map_err(std::io::Error::other)?, 0);
            self.reader.read_exact(&mut body)?;
        } else {
            self.reader.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
