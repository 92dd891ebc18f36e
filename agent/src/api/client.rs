//! A small blocking client for the agent's socket: one request per connection, no async runtime,
//! because the CNI plugin must start within a millisecond.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SOCKET;

/// Longer than any operation takes; a runtime gives up on its own long before.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers on {socket}: is `oxlan agent` running, and is its --run-dir the same?"
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The socket is for root.
    #[error("no permission for the agent's socket {socket}: try it as root")]
    Permission {
        /// The socket.
        socket: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent on {socket} ended the connection before it had answered: its log tells why")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// What came is not HTTP.
    #[error("what listens on {socket} does not speak the agent's protocol")]
    NotHttp {
        /// The socket.
        socket: PathBuf,
    },
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, in JSON.
    pub body: Vec<u8>,
}

/// Asks for `path`.
///
/// # Errors
/// When no agent answers in full.
pub fn get(run_dir: &Path, path: &str) -> Result<Answer, ClientError> {
    exchange(run_dir, "GET", path, b"")
}

/// Sends JSON to `path`.
///
/// # Errors
/// When no agent answers in full.
pub fn post(run_dir: &Path, path: &str, body: &[u8]) -> Result<Answer, ClientError> {
    exchange(run_dir, "POST", path, body)
}

fn exchange(run_dir: &Path, method: &str, path: &str, body: &[u8]) -> Result<Answer, ClientError> {
    let socket = run_dir.join(SOCKET);
    let mut stream = UnixStream::connect(&socket).map_err(|source| {
        let socket = socket.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Permission { socket, source }
        } else {
            ClientError::NoAgent { socket, source }
        }
    })?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: oxlan\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let mut answer = Vec::with_capacity(4096);
    let done = (|| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // An agent that refuses a request need not read it to the end: its answer says why.
        let sent = stream.write_all(&request);
        stream.read_to_end(&mut answer)?;
        sent
    })();
    match (parse(&answer), done) {
        (Some(answer), _) => Ok(answer),
        (None, Err(source)) => Err(ClientError::Broken { socket, source }),
        (None, Ok(())) => Err(ClientError::NotHttp { socket }),
    }
}

/// Status and body of a whole answer; none if it is not one, or if it ends early.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end + 4..)?.to_vec();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .get(2..5)?
        .parse()
        .ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    (length? == body.len()).then_some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_whole() {
        let whole = b"HTTP/1.1 404 Not Found\r\ncontent-type: x\r\nContent-Length: 2\r\n\r\n{}";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, &b"{}"[..]));
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn nobody_there_names_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let error = get(directory.path(), "/v1/status").unwrap_err();
        assert!(error.to_string().contains("agent.sock"), "{error}");
    }
}
