//! One file by HTTP, from where a part of it ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use crate::error::{Error, Result};

/// Why a request did not bring the file.
pub(super) enum Failure {
    /// The fault of that place; another may do.
    There(String),
    /// The disk's fault, or the user wants no more.
    Here(Error),
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        Self::There(error.to_string())
    }
}

/// Longest chain of redirects that is followed.
const MOST_REDIRECTS: usize = 8;

/// How long a connection may take to come about, and how long it may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where in the file an answer starts.
enum Answer {
    From(u64, Response<Body>),
    /// The server does not go on where it was asked to.
    NoRange,
}

/// Makes requests.
pub(super) struct Client {
    agent: Agent,
    /// For servers on this machine, which no proxy can reach.
    direct: Agent,
}

impl Client {
    pub fn new() -> Self {
        // Redirects and statuses are judged here.
        let config = || {
            Agent::config_builder()
                .user_agent(concat!("rewire/", env!("CARGO_PKG_VERSION")))
                .max_redirects(0)
                .max_redirects_will_error(false)
                .http_status_as_error(false)
                .timeout_connect(Some(PATIENCE))
                .timeout_recv_response(Some(PATIENCE))
                .timeout_per_read(Some(PATIENCE))
        };
        let direct = config().proxy(None).build().new_agent();
        Self { agent: config().build().new_agent(), direct }
    }

    /// Appends what `part` lacks of the `size` bytes of `url`; what cannot be part of them is cut off first. `observe`
    /// gets the bytes that are there and the new ones among them.
    pub fn get(
        &self,
        url: &str,
        part: &Path,
        size: u64,
        observe: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> std::result::Result<(), Failure> {
        let here = |e| Failure::Here(Error::io(part, e));
        let mut options = File::options();
        let mut out = options.create(true).truncate(false).write(true).open(part).map_err(here)?;
        let mut have = out.metadata().map_err(here)?.len();
        if have > size {
            have = 0;
        }
        if have == size {
            return observe(have, 0).map_err(Failure::Here);
        }
        let (start, answer) = match self.ask(url, have, size)? {
            Answer::From(start, answer) => (start, answer),
            Answer::NoRange => match self.ask(url, 0, size)? {
                Answer::From(start, answer) => (start, answer),
                Answer::NoRange => return Err(Failure::There("sends another part".into())),
            },
        };
        out.set_len(start).and_then(|()| out.seek(SeekFrom::Start(start))).map_err(here)?;
        have = start;
        observe(have, 0).map_err(Failure::Here)?;
        let (mut body, mut chunk) = (answer.into_body().into_reader(), vec![0; 1 << 16]);
        loop {
            let n = match body.read(&mut chunk) {
                Ok(n) => n,
                Err(error) => {
                    out.sync_all().map_err(here)?;
                    let message = format!("broke off after {have} of {size} bytes: {error}");
                    return Err(Failure::There(message));
                }
            };
            if n == 0 {
                break;
            }
            if n as u64 > size - have {
                out.set_len(0).map_err(here)?;
                return Err(Failure::There(format!("sends more than {size} bytes")));
            }
            out.write_all(&chunk[..n]).map_err(here)?;
            have += n as u64;
            observe(have, n as u64).map_err(Failure::Here)?;
        }
        out.sync_all().map_err(here)?;
        match have == size {
            true => Ok(()),
            false => Err(Failure::There(format!("broke off after {have} of {size} bytes"))),
        }
    }

    /// Asks for the bytes from `have` on, through redirects.
    fn ask(&self, url: &str, have: u64, size: u64) -> std::result::Result<Answer, Failure> {
        let there = |message: String| Err(Failure::There(message));
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.agent_for(&url).get(&url).header("accept-encoding", "identity");
            if have > 0 {
                request = request.header("range", format!("bytes={have}-"));
            }
            let answer = request.call()?;
            let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
            let length = text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
            match answer.status() {
                StatusCode::OK => {
                    return match length {
                        Some(length) if length != size => {
                            there(format!("offers {length} bytes, not {size}"))
                        }
                        // Some page that stands before the file must not cost what is there.
                        None if have > 0 => there("sends something of unknown length".into()),
                        _ => Ok(Answer::From(0, answer)),
                    };
                }
                StatusCode::PARTIAL_CONTENT => {
                    let range = text(header::CONTENT_RANGE).and_then(parse_range);
                    return Ok(match range {
                        Some((start, total))
                            if start == have && total.is_none_or(|n| n == size) =>
                        {
                            Answer::From(have, answer)
                        }
                        _ => Answer::NoRange,
                    });
                }
                StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => return Ok(Answer::NoRange),
                status if status.is_redirection() => {
                    url = redirected(&url, text(header::LOCATION)).map_err(Failure::There)?;
                }
                status => return there(format!("HTTP {}", status.as_u16())),
            }
        }
        there(format!("redirects more than {MOST_REDIRECTS} times"))
    }

    fn agent_for(&self, url: &str) -> &Agent {
        let uri = url.parse::<Uri>();
        match uri.as_ref().ok().and_then(Uri::host) {
            Some("localhost" | "127.0.0.1" | "[::1]") => &self.direct,
            _ => &self.agent,
        }
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*` as the first byte and the length of the whole.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

/// Where an answer from `base` sends on to; what came over https goes on over https.
fn redirected(base: &str, location: Option<&str>) -> std::result::Result<String, String> {
    let to = location.and_then(|to| resolve(base, to)).ok_or("redirects to nowhere")?;
    match base.starts_with("https:") && !to.starts_with("https:") {
        true => Err(format!("redirects from https to {to}")),
        false => Ok(to),
    }
}

/// The address that `to` means in an answer from `base`.
fn resolve(base: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    let uri = base.parse::<Uri>().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.authority()?);
    if to.starts_with("//") {
        return Some(format!("{scheme}:{to}"));
    }
    if to.is_empty() || to.contains("://") {
        return None;
    }
    let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    match to.starts_with('/') {
        true => Some(format!("{scheme}://{host}{to}")),
        false => Some(format!("{scheme}://{host}{folder}/{to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, None)));
        for text in
            ["", "bytes", "bytes */10", "bytes 5/10", "5-9/10", "bytes 5-9/x", "bytes -1-9/10"]
        {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let base = "https://a.org:8080/x/y.zip?z=1";
        for (to, want) in [
            ("http://b.org/q", Some("http://b.org/q")),
            ("//b.org/q", Some("https://b.org/q")),
            ("/q", Some("https://a.org:8080/q")),
            ("q?r=2", Some("https://a.org:8080/x/q?r=2")),
            ("ftp://b.org/q", None),
            ("file:///etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(resolve(base, to).as_deref(), want, "{to}");
        }
        assert!(redirected(base, Some("http://a.org/x")).unwrap_err().contains("from https"));
        assert_eq!(redirected("http://a.org/x", Some("https://b.org/")).unwrap(), "https://b.org/");
        assert!(redirected(base, None).is_err());
    }
}
