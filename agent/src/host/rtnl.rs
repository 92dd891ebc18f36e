//! A synchronous rtnetlink client that sends many requests in one system call.
//!
//! A socket belongs to the namespace of the thread that opened it, for as long as it lives.
//! An ADD needs two batches on the host and one in the pod; going through them one request at a
//! time would cost a dozen round trips under a lock that the whole machine shares.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// Larger than any one answer of the kernel (a dump's part is at most 32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RtnlError {
    /// The socket itself failed.
    #[error("cannot talk to the kernel by netlink")]
    Socket(#[source] io::Error),
    /// The kernel refused one request.
    #[error("cannot {what}")]
    Refused {
        /// What was asked, in words.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer cannot be understood.
    #[error("the kernel's answer to a netlink request cannot be read: {0}")]
    Answer(String),
}

impl RtnlError {
    /// The error number with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Socket(_) | Self::Answer(_) => None,
        }
    }
}

/// Requests that go to the kernel together.
#[derive(Debug, Default)]
pub struct Batch {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    what: String,
    flags: u16,
    message: RouteNetlinkMessage,
    /// Error numbers that count as success.
    accept: &'static [i32],
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for something new; that it exists is an error.
    pub fn create(&mut self, what: impl Into<String>, message: RouteNetlinkMessage) {
        self.push(what, NLM_F_CREATE | NLM_F_EXCL, message, &[]);
    }

    /// Asks for something to be as described, whether it exists or not.
    pub fn replace(&mut self, what: impl Into<String>, message: RouteNetlinkMessage) {
        self.push(what, NLM_F_CREATE | NLM_F_REPLACE, message, &[]);
    }

    /// Asks for a change of something that exists, or for an answer.
    pub fn request(&mut self, what: impl Into<String>, message: RouteNetlinkMessage) {
        self.push(what, 0, message, &[]);
    }

    /// Asks for something to go; that it is gone already is success.
    pub fn remove(&mut self, what: impl Into<String>, message: RouteNetlinkMessage) {
        const GONE: &[i32] = &[
            nix::libc::ENODEV,
            nix::libc::ENOENT,
            nix::libc::ESRCH,
            nix::libc::EADDRNOTAVAIL,
        ];
        self.push(what, 0, message, GONE);
    }

    fn push(
        &mut self,
        what: impl Into<String>,
        flags: u16,
        message: RouteNetlinkMessage,
        accept: &'static [i32],
    ) {
        self.requests.push(Request {
            what: what.into(),
            flags: flags | NLM_F_REQUEST | NLM_F_ACK,
            message,
            accept,
        });
    }
}

/// A socket to the kernel's routing subsystem, in the namespace of the thread that made it.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system has no socket to give.
    pub fn open() -> Result<Self, RtnlError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(RtnlError::Socket)?;
        socket.bind_auto().map_err(RtnlError::Socket)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(RtnlError::Socket)?;
        // Lets a dump leave out what is not asked for. Kernels without it (before 4.20) send all.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends all requests at once. The kernel goes through all of them; the first refusal is the
    /// error, else the answers to requests that have one are returned in order.
    ///
    /// # Errors
    /// The first refusal, or a failure of the socket.
    pub fn run(&mut self, batch: Batch) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(4096);
        for request in &batch.requests {
            self.append(&mut bytes, request.message.clone(), request.flags);
        }
        self.socket.send(&bytes, 0).map_err(RtnlError::Socket)?;
        self.collect(first, &batch.requests)
    }

    /// Everything of the kind that `message` asks for.
    ///
    /// # Errors
    /// A refusal, or a failure of the socket.
    pub fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        let mut bytes = Vec::with_capacity(256);
        self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP);
        self.socket.send(&bytes, 0).map_err(RtnlError::Socket)?;
        let mut entries = Vec::new();
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(entry) => entries.push(entry),
                    NetlinkPayload::Done(_) => return Ok(entries),
                    NetlinkPayload::Error(error) => return Err(refused(what, error.to_io())),
                    _ => {}
                }
            }
        }
    }

    /// Asks several questions at once. Returns the answer to each, or none where the kernel refused.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn ask_each(
        &mut self,
        questions: Vec<RouteNetlinkMessage>,
    ) -> Result<Vec<Option<RouteNetlinkMessage>>, RtnlError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(64 * questions.len());
        let mut answers: Vec<Option<RouteNetlinkMessage>> = vec![None; questions.len()];
        for question in questions {
            self.append(&mut bytes, question, NLM_F_REQUEST | NLM_F_ACK);
        }
        self.socket.send(&bytes, 0).map_err(RtnlError::Socket)?;
        let mut outstanding = answers.len();
        while outstanding > 0 {
            for answer in self.receive()? {
                let position = answer.header.sequence_number.wrapping_sub(first) as usize;
                match (answer.payload, answers.get_mut(position)) {
                    (NetlinkPayload::InnerMessage(message), Some(slot)) => *slot = Some(message),
                    (NetlinkPayload::Error(_), Some(_)) => outstanding -= 1,
                    _ => {}
                }
            }
        }
        Ok(answers)
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        if let Some(room) = bytes.get_mut(start..) {
            message.serialize(room);
        }
    }

    /// Reads until every request has its acknowledgement.
    fn collect(
        &mut self,
        first: u32,
        requests: &[Request],
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        let mut outstanding = requests.len();
        let mut answers = Vec::new();
        let mut failure = None;
        while outstanding > 0 {
            for answer in self.receive()? {
                let position = answer.header.sequence_number.wrapping_sub(first) as usize;
                let Some(request) = requests.get(position) else {
                    continue;
                };
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Error(error) => {
                        outstanding -= 1;
                        let accepted = request.accept.contains(&error.raw_code().abs());
                        if error.code.is_some() && !accepted && failure.is_none() {
                            failure = Some(refused(&request.what, error.to_io()));
                        }
                    }
                    _ => {}
                }
            }
        }
        failure.map_or(Ok(answers), Err)
    }

    /// One datagram, which can hold several messages.
    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, RtnlError> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.socket
            .recv(&mut buffer, 0)
            .map_err(RtnlError::Socket)?;
        let mut messages = Vec::new();
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| RtnlError::Answer(e.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn refused(what: &str, source: io::Error) -> RtnlError {
    RtnlError::Refused {
        what: what.to_owned(),
        source,
    }
}
