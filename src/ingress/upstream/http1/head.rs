//! The head of an answer: its fields, how its body is framed, whether the
//! connection goes on (RFC 9112 §6.3, §9.3). Pure.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use httparse::{Header, ParserConfig, Status};

use crate::ingress::headers::{self, Class};
use crate::ingress::outbound::{AnswerLines, Fields};
use crate::ingress::upstream::http1::body::Body;
use crate::ingress::upstream::http1::chunks::Chunks;
use crate::ingress::upstream::http1::lines::{copy_lines, has_bare_lf, named};
use crate::ingress::upstream::http1::request::agreed;
use crate::ingress::upstream::http1::{FIELDS_MAX, HEAD_BYTES_MAX, Malformed};

/// What an answer's head says beside its fields.
#[derive(Debug)]
pub(in crate::ingress::upstream) struct Head {
    pub(in crate::ingress::upstream) status: StatusCode,
    pub(in crate::ingress::upstream) body: Body,
    /// Whether the connection may be used again once the body is read.
    pub(in crate::ingress::upstream) keeps: bool,
    /// How long the replica keeps it without a request, where it says so.
    pub(in crate::ingress::upstream) idle_limit: Option<Duration>,
}

/// Puts an answer's head together from what comes in.
#[derive(Default)]
pub(in crate::ingress::upstream) struct Reader {
    /// A head that is not complete yet.
    part: BytesMut,
    /// Bytes of `part` in which the end was looked for already.
    searched: usize,
    /// Interim answers so far.
    interim: u32,
}

/// Answers before the answer. A replica that sends more is not going to answer.
const INTERIM_MAX: u32 = 100;

impl Reader {
    /// Reads on in `bytes`, and leaves in there what follows the head. The fields
    /// replace what is in `fields`. `None` until there is enough. A head of an
    /// interim answer (1xx but 101) is returned like any other and leaves `fields`
    /// alone, as the request may have to be sent again; call again after it.
    pub(in crate::ingress::upstream) fn read(
        &mut self,
        bytes: &mut Bytes,
        to_head: bool,
        fields: Fields<'_>,
    ) -> Result<Option<Head>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if !self.part.is_empty() && !self.join(bytes) {
            return self.within_limit();
        }
        let Some((read, head)) = parse(bytes, to_head, fields)? else {
            self.part.extend_from_slice(bytes);
            bytes.clear();
            return self.within_limit();
        };
        bytes.advance(read);
        if read > HEAD_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        self.searched = 0;
        self.interim += u32::from(head.is_interim());
        if self.interim > INTERIM_MAX {
            return Err(Malformed("interim answers without end"));
        }
        Ok(Some(head))
    }

    /// Adds `bytes` to the part that is here; if that may be a whole head, it is
    /// what `bytes` is then. Looking for the end first keeps a head that comes
    /// byte by byte from being parsed as often.
    fn join(&mut self, bytes: &mut Bytes) -> bool {
        self.part.extend_from_slice(bytes);
        let begin = self.searched.saturating_sub(2);
        let ends = |window: &[u8]| window.ends_with(b"\n\n") || window == b"\n\r\n";
        self.searched = self.part.len();
        bytes.clear();
        if self.part[begin..].windows(3).any(ends) {
            *bytes = std::mem::take(&mut self.part).freeze();
        }
        !bytes.is_empty()
    }

    fn within_limit(&self) -> Result<Option<Head>, Malformed> {
        if self.part.len() > HEAD_BYTES_MAX { Err(TOO_LARGE) } else { Ok(None) }
    }
}

const TOO_LARGE: Malformed = Malformed("the head of the answer is larger than 64 KiB");

impl Head {
    /// Whether another answer follows.
    pub(in crate::ingress::upstream) fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

fn parse(bytes: &Bytes, to_head: bool, fields: Fields<'_>) -> Result<Option<(usize, Head)>, Malformed> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut slots);
    let read = match parsed {
        Ok(Status::Complete(read)) => read,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(Malformed(why(error))),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("the status is not a number from 100 to 999"))?;
    if has_bare_lf(&bytes[..read]) {
        return Err(Malformed("a line of the answer's head does not end with CR LF"));
    }
    let interim = Head { status, body: Body::EMPTY, keeps: true, idle_limit: None };
    if interim.is_interim() {
        return Ok(Some((read, interim)));
    }
    let mut notes = Notes { http_1_0: answer.version == Some(0), ..Notes::default() };
    match fields {
        Fields::Map(map) => notes.fill(map, answer.headers, bytes)?,
        Fields::Lines(lines) => notes.copy(lines, status, answer.headers, &bytes[..read])?,
    }
    Ok(Some((read, notes.head(status, to_head)?)))
}

/// What we add to an answer, so that the map does not grow then.
const FIELDS_ADDED: usize = 4;
/// Bytes that we add to an answer, and of its body those that are sent with them.
const BYTES_ADDED: usize = 1_700;

/// What we do with a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Length,
    Coding,
    Connection,
    KeepAlive,
    /// Another of this hop.
    Hop,
    /// One that only we may say.
    Ours,
    Date,
    Type,
    Other,
}

impl Kind {
    #[inline]
    fn of(name: &[u8]) -> Self {
        let (known, kind): (&[u8], _) = match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
            (4, Some(b'd')) => (b"date", Self::Date),
            (7, Some(b'u')) => (b"upgrade", Self::Hop),
            (10, Some(b'c')) => (b"connection", Self::Connection),
            (10, Some(b'k')) => (b"keep-alive", Self::KeepAlive),
            (12, Some(b'c')) => (b"content-type", Self::Type),
            (13, Some(b'x')) => (b"x-environment", Self::Ours),
            (14, Some(b'c')) => (b"content-length", Self::Length),
            (15, Some(b'x')) => (b"x-deployment-id", Self::Ours),
            (16, Some(b'p')) => (b"proxy-connection", Self::Hop),
            (17, Some(b't')) => (b"transfer-encoding", Self::Coding),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(known) { kind } else { Self::Other }
    }

    /// Whether lines of it are passed on: framing is told anew.
    fn stays(self) -> bool {
        matches!(self, Self::Date | Self::Type | Self::Other)
    }
}

/// What the fields say about framing and the connection.
#[derive(Default)]
struct Notes {
    http_1_0: bool,
    length: Option<u64>,
    /// The length is said more than once.
    is_length_repeated: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    keep_alive_seconds: Option<u64>,
    /// `Connection` names fields beside that.
    names_fields: bool,
    has_date: bool,
    class: Class,
}

impl Notes {
    fn note(&mut self, kind: Kind, value: &[u8]) -> Result<(), Malformed> {
        match kind {
            Kind::Length => {
                self.is_length_repeated |= self.length.is_some() || value.contains(&b',');
                let length = agreed(self.length, value);
                self.length = Some(length.map_err(|()| Malformed("Content-Length is not one number"))?);
            }
            Kind::Coding => {
                // We offer no other coding, and twice is not what anybody means.
                if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("Transfer-Encoding is not chunked"));
                }
                self.chunked = true;
            }
            Kind::Connection => {
                for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    let (close, keep_alive) =
                        (token.eq_ignore_ascii_case(b"close"), token.eq_ignore_ascii_case(b"keep-alive"));
                    self.close |= close;
                    self.keep_alive |= keep_alive;
                    self.names_fields |= !close && !keep_alive && !token.is_empty();
                }
            }
            Kind::KeepAlive => self.keep_alive_seconds = self.keep_alive_seconds.or(headers::keep_alive_seconds(value)),
            Kind::Date => self.has_date = true,
            Kind::Type => self.class = headers::class(value),
            Kind::Hop | Kind::Ours | Kind::Other => {}
        }
        Ok(())
    }

    /// Puts the fields into a map, all but the lengths behind the first.
    fn fill(&mut self, map: &mut HeaderMap, fields: &[Header<'_>], bytes: &Bytes) -> Result<(), Malformed> {
        map.clear();
        map.reserve(fields.len() + FIELDS_ADDED);
        for field in fields {
            const BAD: Malformed = Malformed("a field of the answer's head has no valid name or value");
            self.note(Kind::of(field.name.as_bytes()), field.value)?;
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD)?;
            // Shares the bytes that were read.
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| BAD)?;
            map.append(name, value);
        }
        // "5, 5" is one length; it is passed on as one.
        if let (Some(length), true) = (self.length, self.is_length_repeated) {
            map.insert(header::CONTENT_LENGTH, length.into());
        }
        Ok(())
    }

    /// Copies the lines that are to be passed on.
    fn copy(
        &mut self,
        lines: &mut AnswerLines,
        status: StatusCode,
        fields: &[Header<'_>],
        head: &[u8],
    ) -> Result<(), Malformed> {
        lines.begin(status, head.len() + BYTES_ADDED);
        let begin = lines.bytes.len();
        let mut noted = Ok(());
        let note = |field: &Header<'_>| {
            let kind = Kind::of(field.name.as_bytes());
            if noted.is_ok() {
                noted = self.note(kind, field.value);
            }
            kind.stays()
        };
        copy_lines(head, fields, note, &mut lines.bytes);
        noted?;
        if self.names_fields {
            // Rare: once more, without those.
            let named = named(fields);
            let stays = |field: &Header<'_>| {
                let name = field.name.as_bytes();
                Kind::of(name).stays() && !named.iter().any(|named| named.eq_ignore_ascii_case(name))
            };
            lines.bytes.truncate(begin);
            copy_lines(head, fields, stays, &mut lines.bytes);
        }
        lines.length = self.length.filter(|_| !self.chunked);
        lines.class = self.class;
        lines.has_date = self.has_date;
        Ok(())
    }

    fn head(self, status: StatusCode, to_head: bool) -> Result<Head, Malformed> {
        if self.chunked && self.http_1_0 {
            return Err(Malformed("an answer of HTTP/1.0 has no chunks"));
        }
        // RFC 9112 §6.3: chunks override a length, and whoever sends both is not
        // to be trusted with another request on this connection.
        let contradicts = self.chunked && self.length.is_some();
        let has_none = to_head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        let body = match self.length {
            _ if has_none => Body::EMPTY,
            _ if self.chunked => Body::Chunked(Chunks::default()),
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        };
        let asks_to_keep = !self.close && (!self.http_1_0 || self.keep_alive);
        Ok(Head {
            status,
            keeps: asks_to_keep && !contradicts && !matches!(body, Body::UntilClose),
            body,
            // A second before the replica does, or the close is on its way while we send.
            idle_limit: self.keep_alive_seconds.map(|seconds| Duration::from_secs(seconds.saturating_sub(1))),
        })
    }
}

fn why(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header field of the answer has no valid name",
        httparse::Error::HeaderValue => "a header field of the answer has no valid value",
        httparse::Error::NewLine => "a line of the answer's head does not end as it should",
        httparse::Error::Status => "the answer's status line is not valid",
        httparse::Error::Token => "the answer does not begin with a status line",
        httparse::Error::TooManyHeaders => "the answer has more than 128 header fields",
        httparse::Error::Version => "the answer is not of HTTP/1.1 or HTTP/1.0",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingress::added::Origin;
    use crate::ingress::fuzz::fuzz;
    use crate::routing::pool::DeploymentText;

    struct Read {
        head: Head,
        fields: HeaderMap,
        rest: Bytes,
    }

    fn read_in(pieces: &[&[u8]], to_head: bool) -> Result<Option<Read>, Malformed> {
        let (mut reader, mut fields) = (Reader::default(), HeaderMap::new());
        let mut found: Option<Head> = None;
        let mut rest = BytesMut::new();
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece);
            while found.as_ref().is_none_or(Head::is_interim) {
                match reader.read(&mut bytes, to_head, Fields::Map(&mut fields))? {
                    Some(head) => found = Some(head),
                    None => break,
                }
            }
            rest.extend_from_slice(&bytes);
        }
        Ok(found.map(|head| Read { head, fields, rest: rest.freeze() }))
    }

    fn read(text: &str) -> Result<Option<Read>, Malformed> {
        let whole = read_in(&[text.as_bytes()], false);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        let slowly = read_in(&bytes, false);
        match (&whole, &slowly) {
            (Ok(Some(whole)), Ok(Some(slowly))) => {
                assert_eq!(whole.fields, slowly.fields, "{text:?}");
                assert_eq!(whole.rest, slowly.rest, "{text:?}");
                assert_eq!(format!("{:?}", whole.head), format!("{:?}", slowly.head), "{text:?}");
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            _ => panic!("byte by byte it means something else: {text:?}"),
        }
        whole
    }

    fn one(text: &str) -> Read {
        read(text).unwrap().unwrap()
    }

    #[test]
    fn a_head_ends_where_its_body_begins() {
        let answer = one("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: 1\r\nx-a: \t2 \r\n\r\nbody");
        assert_eq!((answer.head.status.as_u16(), answer.head.keeps), (200, true));
        assert!(matches!(answer.head.body, Body::Length(4)));
        assert_eq!(answer.fields.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(answer.rest, "body");
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n").unwrap().is_none());
    }

    #[test]
    fn framing_is_by_the_book() {
        let framing = |fields: &str| one(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).head;
        assert!(matches!(framing("Transfer-Encoding: Chunked\r\n").body, Body::Chunked(_)));
        assert!(matches!(framing("Content-Length: 5\r\nContent-Length: 5\r\n").body, Body::Length(5)));
        let open = framing("");
        assert!(matches!(open.body, Body::UntilClose) && !open.keeps);
        let both = framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        assert!(matches!(both.body, Body::Chunked(_)) && !both.keeps);
        for status in ["204 No Content", "304 Not Modified"] {
            let none = one(&format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n")).head;
            assert!(none.body.is_end() && none.keeps, "{status}");
        }
        let to_head = read_in(&[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], true).unwrap().unwrap();
        assert!(to_head.head.body.is_end() && to_head.fields["content-length"] == "9");
    }

    #[test]
    fn lengths_said_twice_are_passed_on_once() {
        for lines in ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n"] {
            let answer = one(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
            assert_eq!(answer.fields.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
        }
    }

    #[test]
    fn whether_the_connection_goes_on_is_up_to_the_replica() {
        let keeps =
            |start: &str, line: &str| one(&format!("{start} 200 OK\r\nContent-Length: 0\r\n{line}\r\n")).head.keeps;
        assert!(keeps("HTTP/1.1", "") && keeps("HTTP/1.0", "Connection: x, Keep-Alive\r\n"));
        assert!(!keeps("HTTP/1.1", "Connection: x,CLOSE\r\n") && !keeps("HTTP/1.0", ""));
        let limit = |line: &str| one(&format!("HTTP/1.1 204 No\r\n{line}\r\n")).head.idle_limit;
        assert_eq!(limit("Keep-Alive: timeout=5\r\n"), Some(Duration::from_secs(4)));
        assert_eq!((limit("Keep-Alive: timeout=0\r\n"), limit("")), (Some(Duration::ZERO), None));
    }

    #[test]
    fn interim_answers_come_before_the_answer() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No\r\nX: 1\r\n\r\n";
        let answer = one(text);
        assert_eq!((answer.head.status.as_u16(), answer.fields.len()), (204, 1));
        assert!(!one("HTTP/1.1 101 Switching\r\n\r\nearly").head.is_interim());
        let mut fields = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("request"))]);
        let mut early = Bytes::from_static(b"HTTP/1.1 103 Hints\r\nLink: <a>\r\nContent-Length: x\r\n\r\n");
        assert!(Reader::default().read(&mut early, false, Fields::Map(&mut fields)).unwrap().unwrap().is_interim());
        assert_eq!((fields.len(), early.len()), (1, 0), "the request may have to be sent again");
        assert!(read(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(101)).is_err());
    }

    proptest! {
        #[test]
        fn a_head_means_the_same_however_it_is_cut(
            status in prop::sample::select(vec![200u16, 204, 304, 404, 500]),
            fields in prop::collection::vec(("[A-Za-z-]{1,12}", "[!-~][ -~]{0,20}"), 0..9),
            framing in prop::sample::select(vec!["", "Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n"]),
            early in 0usize..3,
            behind in "[ -~]{0,9}",
        ) {
            let lines: String = fields.iter().map(|(name, value)| format!("X-{name}: {value}\r\n")).collect();
            let early = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".repeat(early);
            let answer = one(&format!("{early}HTTP/1.1 {status} Reason\r\n{lines}{framing}\r\n{behind}"));
            prop_assert_eq!(answer.head.status.as_u16(), status);
            prop_assert_eq!(answer.fields.len(), fields.len() + usize::from(!framing.is_empty()));
            prop_assert_eq!(answer.rest, behind);
            for (name, value) in &fields {
                let same = |found: &HeaderValue| found.as_bytes() == value.trim_end().as_bytes();
                prop_assert!(answer.fields.get_all(format!("X-{name}")).iter().any(same), "{name}: {value}");
            }
        }

        #[test]
        fn a_damaged_head_means_the_same_however_it_is_cut(
            at in 0usize..70, byte in any::<u8>(), also in 0usize..70, second in any::<u8>(),
        ) {
            let mut head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\nX: y\r\n\r\n".to_vec();
            let length = head.len();
            head[at % length] = byte;
            head[also % length] = second;
            let whole = read_in(&[&head], false);
            let slowly = read_in(&head.chunks(1).collect::<Vec<_>>(), false);
            match (whole, slowly) {
                (Ok(Some(whole)), Ok(Some(slowly))) => {
                    prop_assert_eq!(format!("{:?}", whole.head), format!("{:?}", slowly.head));
                    prop_assert_eq!((whole.fields, whole.rest), (slowly.fields, slowly.rest));
                }
                // One that has no end is only looked at when it has become too large.
                (Ok(None) | Err(_), Ok(None)) | (Err(_), Err(_)) => {}
                _ => prop_assert!(false, "byte by byte it means something else"),
            }
        }
    }

    /// The fields that are passed on, by name, and the length that is said.
    type Passed = (Vec<(String, Vec<u8>)>, Option<u64>);

    fn passed(fields: &HeaderMap, length: Option<u64>) -> Passed {
        let ours = ["content-length", "x-deployment-id", "x-environment"];
        let field = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
        let mut passed: Vec<_> = fields.iter().map(field).filter(|(name, _)| !ours.contains(&name.as_str())).collect();
        passed.sort_by(|left, right| left.0.cmp(&right.0));
        (passed, length)
    }

    /// A head as lines says what it says as a map.
    fn check_lines(input: &[u8], to_head: bool, mut map: HeaderMap, head: &Head) {
        let mut lines = AnswerLines::default();
        let (mut reader, mut bytes) = (Reader::default(), Bytes::copy_from_slice(input));
        let read = loop {
            match reader.read(&mut bytes, to_head, Fields::Lines(&mut lines)).unwrap() {
                Some(read) if read.is_interim() => {}
                read => break read.unwrap(),
            }
        };
        assert_eq!(format!("{read:?}"), format!("{head:?}"));
        let class = map.get(header::CONTENT_TYPE).map_or(Class::Unary, |kind| headers::class(kind.as_bytes()));
        let has_date = map.contains_key(header::DATE);
        let origin = Origin { deployment: DeploymentText::of(uuid::Uuid::nil()), environment: b"e" };
        headers::answer(&mut map, false, origin);
        let length = map.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().parse().unwrap());
        let mut written = lines.bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap().to_vec();
        written.extend_from_slice(b"\r\n");
        let mut slots = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let Ok(Status::Complete((_, fields))) = httparse::parse_headers(&written, &mut slots) else {
            panic!("{:?}", String::from_utf8_lossy(&written));
        };
        let mut parsed = HeaderMap::new();
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
            parsed.append(name, HeaderValue::from_bytes(field.value).unwrap());
        }
        assert_eq!(passed(&parsed, lines.length), passed(&map, length));
        let named = |fields: &HeaderMap, name: HeaderName| fields.contains_key(name);
        assert_eq!(lines.has_date && named(&map, header::DATE), has_date && named(&map, header::DATE));
        assert!(lines.class == class || !map.contains_key(header::CONTENT_TYPE));
    }

    #[test]
    fn fuzz_answer_heads() {
        fuzz("answer_heads", |input| {
            let to_head = input.len().is_multiple_of(2);
            // Interim answers alone are none yet.
            let answer = |read: Option<Read>| read.filter(|read| !read.head.is_interim());
            let whole = read_in(&[input], to_head).map(answer);
            let slowly = read_in(&input.chunks(1 + input.len() % 5).collect::<Vec<_>>(), to_head).map(answer);
            match (&whole, &slowly) {
                (Ok(Some(whole)), Ok(Some(slowly))) => {
                    assert_eq!(format!("{:?}", whole.head), format!("{:?}", slowly.head));
                    assert_eq!((&whole.fields, &whole.rest), (&slowly.fields, &slowly.rest));
                    assert!(whole.fields.get_all("content-length").iter().count() < 2, "framed once");
                    if whole.head.status != StatusCode::SWITCHING_PROTOCOLS {
                        check_lines(input, to_head, whole.fields.clone(), &whole.head);
                    }
                }
                // One that has no end is only looked at when it has become too large.
                (Ok(None) | Err(_), Ok(None)) | (Err(_), Err(_)) => {}
                _ => panic!("in pieces it means something else"),
            }
            match whole {
                Ok(Some(read)) => format!("{} {} {}", read.head.keeps, read.head.body.is_end(), read.head.status),
                Ok(None) => "part".to_owned(),
                Err(malformed) => malformed.to_string(),
            }
        });
    }

    #[test]
    fn hostile_heads_are_refused() {
        let cases = [
            "nonsense\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\nA: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: 1\r\n\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 103 Hints\nA: 1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: 1\r\n".repeat(129)),
            &format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(66 * 1024)),
            &format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(66 * 1024)),
        ];
        for text in cases {
            assert!(read(text).is_err(), "{:?}", &text[..text.len().min(80)]);
        }
    }
}
