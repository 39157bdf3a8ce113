//! HTTP/1.1 read and written by ourselves: the usual requests of a connection.
//!
//! A head is copied on as lines, its fields in no map (`request`, `answer`); the
//! client's socket is read by whoever needs bytes of it (`client`). Ends with the
//! first request that is not a usual one, and leaves that and what follows to
//! hyper. Knows nothing of where requests go: that is `proxy`'s.

mod answer;
pub(in crate::ingress) mod client;
#[cfg(test)]
mod differential;
pub(in crate::ingress) mod request;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::Method;

use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::downstream::http1::answer::{Facts, write_head};
use crate::ingress::downstream::http1::client::{Client, Next};
use crate::ingress::downstream::http1::request::Rules;
use crate::ingress::proxy::{self, Answer};
use crate::ingress::upstream::http1::outgoing::{Outgoing, Stop};

/// How it ends.
pub(super) enum End {
    /// What comes next is not usual; the connection goes on.
    Unusual,
    /// There is nothing more to say.
    Over,
    /// In the middle of an answer, which must not look whole.
    Cut,
}

/// Serves requests one after the other.
pub(super) async fn serve(core: &Rc<Core>, connection: &Rc<Connection>, client: &Rc<Client>) -> End {
    let rules = Rules { config: core.config(), is_trusted: connection.peer().is_trusted };
    loop {
        let request = match poll_fn(|cx| client.poll_next(cx, &rules)).await {
            Next::Request(request) => request,
            Next::Unusual => return End::Unusual,
            Next::End => return End::Over,
        };
        let (keeps, to_head) = (request.keeps, request.lines.method == Method::HEAD);
        // Boxed: a connection that waits for its next request has no room for one.
        let answer = Box::pin(proxy::handle_lines(Rc::clone(core), Rc::clone(connection), request, client));
        let Some(answer) = unless_gone(client, answer).await else { return End::Over };
        let is_last = !keeps || answer.is_last;
        client.answers(true);
        if let Err(stop) = write(core, client, answer, to_head, is_last).await {
            tracing::debug!(?stop, peer = %connection.peer().address(), "answer not delivered");
            return End::Cut;
        }
        client.answers(false);
        // Somebody may still be sending the request to the replica that has answered it.
        poll_fn(|cx| client.poll_released(cx)).await;
        if is_last || !client.skip_body() {
            return End::Over;
        }
    }
}

/// Works on an answer for as long as somebody waits for it.
async fn unless_gone(client: &Client, answer: impl Future<Output = Answer>) -> Option<Answer> {
    let mut answer = pin!(answer);
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => client.poll_gone(cx).map(|()| None),
    })
    .await
}

async fn write(core: &Core, client: &Client, mut answer: Answer, to_head: bool, is_last: bool) -> Result<(), Stop> {
    let (head, framing) = write_head(&mut answer, &Facts { to_head, is_last, date: &core.date() });
    let mut out = Outgoing::answer(head, framing);
    let mut body = answer.body;
    poll_fn(|cx| match client.poll_write(cx, &mut out, &mut body) {
        Poll::Ready(written) => Poll::Ready(written),
        Poll::Pending => client.poll_gone(cx).map(|()| Err(Stop::Cut)),
    })
    .await
}
