//! What is heard of the API server while it answers: which requests it owes an answer, and since when.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;

/// A server that owes an answer for so long is told of, while it is still waited for.
const SLOW: Duration = Duration::from_secs(5);

/// An answer that stops in the middle for so long does not go on: the server has it as a whole before it
/// sends it.
const STALL: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    List,
    Watch,
    Patch,
}

impl Question {
    fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        if request.method() == Method::PATCH {
            Self::Patch
        } else if query.split('&').any(|part| part == "watch=true") {
            Self::Watch
        } else {
            Self::List
        }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::List => "list of nodes",
            Self::Watch => "watch of nodes",
            Self::Patch => "patch of nodes/status",
        })
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Counts the successful answers: a watch's when it begins, others' when they are whole.
    pub(super) answers: u64,
    /// Counts the questions.
    asked: u64,
    /// The questions without a whole answer.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    question: Question,
    /// When something was heard of it, or it was asked.
    last: Instant,
    since: Timestamp,
}

impl Heard {
    /// What the server owes an answer for long, in words that stay the same as long as that is so.
    pub(super) fn slow(&self, url: &str, now: Instant) -> Option<String> {
        let open = self.oldest().filter(|o| o.last + SLOW <= now)?;
        let since = open.since.strftime("%Y-%m-%dT%H:%M:%SZ");
        let question = open.question;
        Some(format!(
            "the API server {url} owes the answer to a {question} since {since}: is it overloaded, or are packets lost on the way?"
        ))
    }

    /// When the server will have owed an answer for long.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.oldest().map(|o| o.last + SLOW)
    }

    fn oldest(&self) -> Option<&Open> {
        self.open.iter().min_by_key(|o| o.last)
    }
}

/// Who keeps account.
#[derive(Clone)]
pub(super) struct Account(watch::Sender<Heard>);

impl Account {
    /// An empty account, and who reads it.
    pub(super) fn open() -> (Self, watch::Receiver<Heard>) {
        let (sender, receiver) = watch::channel(Heard::default());
        (Self(sender), receiver)
    }

    /// A question is asked.
    pub(super) fn asks<B>(&self, request: &Request<B>) -> Asked {
        let question = Question::of(request);
        let mut number = 0;
        self.0.send_modify(|heard| {
            number = heard.asked;
            heard.asked += 1;
            heard.open.push(Open {
                number,
                question,
                last: Instant::now(),
                since: Timestamp::now(),
            });
        });
        Asked {
            account: self.clone(),
            question,
            number,
            success: false,
        }
    }
}

/// A question that was asked. It is closed when it is dropped, whatever has become of it.
pub(super) struct Asked {
    account: Account,
    question: Question,
    number: u64,
    success: bool,
}

impl Asked {
    /// An answer begins.
    pub(super) fn answered<B>(mut self, response: Response<B>) -> Response<Listening<B>> {
        self.success = response.status().is_success();
        self.go_on();
        response.map(|body| {
            // From here on a watch may be silent.
            let watches = self.question == Question::Watch && self.success;
            if watches {
                self.complete();
            }
            Listening {
                body,
                asked: (!watches).then_some(self),
                between_lines: true,
                stall: Box::pin(sleep(STALL)),
            }
        })
    }

    /// There is more of the answer. Nobody has to know at once.
    fn go_on(&self) {
        self.account.0.send_if_modified(|heard| {
            let open = heard.open.iter_mut().find(|o| o.number == self.number);
            if let Some(open) = open {
                (open.last, open.since) = (Instant::now(), Timestamp::now());
            }
            false
        });
    }

    /// The answer is whole.
    fn complete(&self) {
        if self.success {
            self.account.0.send_modify(|heard| heard.answers += 1);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let number = self.number;
        self.account
            .0
            .send_modify(|heard| heard.open.retain(|o| o.number != number));
    }
}

/// An answer that stopped.
#[derive(Debug, thiserror::Error)]
#[error("it stopped in the middle of an answer, for {STALL:?}")]
struct Stalled;

/// An answer that is read, which must not stop in the middle.
pub(super) struct Listening<B> {
    body: B,
    /// The question, until the answer is whole; none for a watch.
    asked: Option<Asked>,
    /// Whether a watch has sent whole events so far.
    between_lines: bool,
    stall: Pin<Box<Sleep>>,
}

impl<B> Listening<B> {
    fn heard(&mut self, data: &[u8]) {
        self.stall.as_mut().reset(Instant::now() + STALL);
        match &self.asked {
            Some(asked) => asked.go_on(),
            None => self.between_lines = data.last().is_none_or(|last| *last == b'\n'),
        }
    }
}

impl<B> Body for Listening<B>
where
    B: Body<Error: Into<BoxError>, Data: AsRef<[u8]>> + Unpin,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.heard(frame.data_ref().map_or(&[], AsRef::as_ref));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                if let Some(asked) = this.asked.take() {
                    asked.complete();
                }
                Poll::Ready(None)
            }
            Poll::Pending if this.asked.is_none() && this.between_lines => Poll::Pending,
            Poll::Pending => {
                ready!(this.stall.as_mut().poll(context));
                Poll::Ready(Some(Err(Stalled.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // The end is to be seen.
        self.asked.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(account: &Account, method: Method, uri: &str) -> Asked {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        account.asks(&request)
    }

    #[test]
    fn an_owed_answer_is_told_of_after_a_while_and_until_it_is_there() {
        let (account, heard) = Account::open();
        let slow = |after| heard.borrow().slow("u", Instant::now() + after);
        let patch = ask(&account, Method::PATCH, "/api/v1/nodes/n/status?");
        assert_eq!(slow(SLOW / 2), None);
        let told = slow(SLOW).unwrap();
        assert!(told.contains("u owes the answer to a patch of"), "{told}");
        drop(patch);
        assert_eq!(slow(SLOW), None);
        assert_eq!(heard.borrow().slow_at(), None);
    }

    #[tokio::test]
    async fn a_watch_owes_nothing_once_it_has_begun_and_a_list_until_its_end() {
        let (account, heard) = Account::open();
        let slow = || heard.borrow().slow("u", Instant::now() + SLOW);
        let uri = "/api/v1/nodes?&watch=true&timeoutSeconds=290&resourceVersion=7";
        let watch = ask(&account, Method::GET, uri);
        assert!(slow().unwrap().contains("a watch of nodes"));
        let body = || axum::body::Body::from("{}");
        let _watch = watch.answered(Response::new(body()));
        assert_eq!((slow(), heard.borrow().answers), (None, 1));
        let list =
            ask(&account, Method::GET, "/api/v1/nodes?&limit=100").answered(Response::new(body()));
        assert!(slow().unwrap().contains("a list of nodes"));
        let whole = axum::body::to_bytes(axum::body::Body::new(list.into_body()), 10).await;
        assert_eq!(whole.unwrap(), "{}");
        assert_eq!((slow(), heard.borrow().answers), (None, 2));
    }

    #[tokio::test]
    async fn a_refusal_is_no_answer() {
        let (account, heard) = Account::open();
        let list = ask(&account, Method::GET, "/api/v1/nodes");
        let mut refusal = Response::new(axum::body::Body::empty());
        *refusal.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        let body = axum::body::Body::new(list.answered(refusal).into_body());
        axum::body::to_bytes(body, 10).await.unwrap();
        assert_eq!((heard.borrow().open.len(), heard.borrow().answers), (0, 0));
    }
}
