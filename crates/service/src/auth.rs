//! Bearer tokens on gRPC calls. Owns reading, sending and checking a token, and
//! the rule that nobody listens to a network without one. Encrypts nothing: on
//! an untrusted network put the services behind TLS.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::{Result, ServiceError};

const HEADER: &str = "authorization";
const SHORTEST: usize = 16;

/// A shared secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from text, surrounding white space removed.
    ///
    /// # Errors
    /// If it is shorter than 16 characters or not visible ASCII.
    pub fn new(text: &str) -> Result<Self> {
        Self::parse(text, "the given text")
    }

    /// Reads the token in the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or holds no usable token.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| ServiceError::File {
            path: path.into(),
            reason: e.to_string(),
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, source: &str) -> Result<Self> {
        let text = text.trim();
        let refuse = |reason: &str| {
            Err(ServiceError::Token {
                path: source.to_string(),
                reason: reason.to_string(),
            })
        };
        if text.len() < SHORTEST {
            return refuse("it is too short");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return refuse("it has characters that are not visible ASCII");
        }
        Ok(Self(text.to_string()))
    }

    fn header(&self) -> Option<MetadataValue<Ascii>> {
        format!("Bearer {}", self.0).parse().ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Client side: adds the token, if there is one, to every call.
#[derive(Debug, Clone, Default)]
pub struct SendToken(Option<MetadataValue<Ascii>>);

impl SendToken {
    /// Sends `token` from now on.
    pub fn new(token: Option<&Token>) -> Self {
        let mut header = token.and_then(Token::header);
        if let Some(header) = &mut header {
            header.set_sensitive(true);
        }
        Self(header)
    }
}

impl Interceptor for SendToken {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert(HEADER, header.clone());
        }
        Ok(request)
    }
}

/// Server side: refuses calls without the token, if there is one to demand.
#[derive(Debug, Clone, Default)]
pub struct RequireToken(Option<Token>);

impl RequireToken {
    /// Demands `token` from now on; `None` lets every call pass.
    pub fn new(token: Option<Token>) -> Self {
        Self(token)
    }
}

impl Interceptor for RequireToken {
    fn call(&mut self, request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let Some(Token(expected)) = &self.0 else {
            return Ok(request);
        };
        let sent = request
            .metadata()
            .get(HEADER)
            .and_then(|value| value.to_str().ok());
        match sent.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(sent) if equal_in_constant_time(sent.as_bytes(), expected.as_bytes()) => {
                Ok(request)
            }
            Some(_) => Err(Status::unauthenticated(
                "the token is wrong; give the server's --token-file",
            )),
            None => Err(Status::unauthenticated(
                "a token is needed; give --token-file",
            )),
        }
    }
}

/// Compares without revealing by its duration how much of a guess was right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// Refuses to listen on `addr`, off loopback, without a token.
///
/// # Errors
/// [`ServiceError::Unprotected`], unless `insecure` says that this is wanted.
pub fn check_exposure(addr: SocketAddr, token: Option<&Token>, insecure: bool) -> Result<()> {
    if addr.ip().is_loopback() || token.is_some() {
        return Ok(());
    }
    if insecure {
        tracing::warn!(%addr, "listening to the network without a token");
        return Ok(());
    }
    Err(ServiceError::Unprotected { addr })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct-horse-battery";

    fn answer(sent: Option<&str>) -> std::result::Result<(), Status> {
        let token = sent.map(|text| Token::new(text).unwrap());
        let request = SendToken::new(token.as_ref()).call(Request::new(()))?;
        RequireToken::new(Some(Token::new(SECRET).unwrap()))
            .call(request)
            .map(|_| ())
    }

    #[test]
    fn only_the_right_token_passes() {
        assert!(answer(Some(SECRET)).is_ok());
        for wrong in [
            None,
            Some("correct-horse-batterx"),
            Some("correct-horse-battery-staple"),
        ] {
            assert_eq!(
                answer(wrong).unwrap_err().code(),
                tonic::Code::Unauthenticated
            );
        }
        assert!(RequireToken::default().call(Request::new(())).is_ok());
    }

    #[test]
    fn tokens_are_read_from_a_line_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, format!("{SECRET}\n")).unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token, Token::new(SECRET).unwrap());
        assert!(!format!("{token:?} {:?}", SendToken::new(Some(&token))).contains("horse"));
        for bad in [
            "",
            "short",
            "two words are not one token",
            "bell\u{7}bell\u{7}bell\u{7}bell",
        ] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
        let missing = Token::read(&folder.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("none"), "{missing}");
    }

    #[test]
    fn the_network_needs_a_token_or_an_explicit_word() {
        let network = "0.0.0.0:7000".parse().unwrap();
        let token = Token::new(SECRET).unwrap();
        assert!(check_exposure("127.0.0.1:7000".parse().unwrap(), None, false).is_ok());
        assert!(check_exposure("[::1]:7000".parse().unwrap(), None, false).is_ok());
        assert!(check_exposure(network, Some(&token), false).is_ok());
        assert!(check_exposure(network, None, true).is_ok());
        let error = check_exposure(network, None, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("0.0.0.0:7000") && error.contains("--token-file"),
            "{error}"
        );
    }
}
