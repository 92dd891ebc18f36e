//! A small HTTP server, so that the demonstration needs none to be installed. It tells each client
//! which address it sees.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Serves both families until it is killed.
pub(super) fn serve(name: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).context("cannot listen")?;
    for stream in listener.incoming() {
        // A client that goes away in the middle is its own affair.
        let _ = stream.and_then(|stream| answer(name, &stream));
    }
    Ok(())
}

fn answer(name: &str, mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let client = stream.peer_addr()?.ip().to_canonical();
    let end_of_head = |line: &std::io::Result<String>| line.as_ref().is_ok_and(String::is_empty);
    BufReader::new(stream).lines().find(end_of_head);
    let body = format!("{name} sees {client}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
