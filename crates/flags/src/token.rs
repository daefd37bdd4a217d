//! A bearer token: given on the command line, or read from a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A bearer token. `Debug` prints `set`, never the token.
#[derive(Clone)]
pub struct TokenFlag {
    /// The value of the flag: the token, or `@` and the path of its file.
    given: String,
    /// Empty until [`TokenFlag::read`].
    secret: String,
}

impl TokenFlag {
    /// The token that a client sends.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The value of the flag if it names a file: the name is no secret.
    pub fn given_file(&self) -> Option<&str> {
        self.file().map(|_| self.given.as_str())
    }

    fn file(&self) -> Option<&Path> {
        self.given.strip_prefix('@').map(Path::new)
    }

    /// Reads the file if the flag names one, and checks the token.
    ///
    /// # Errors
    /// When the file can't be read, or when no client could send the token.
    pub fn read(&mut self, flag: &'static str) -> Result<(), TokenError> {
        self.secret = match self.file() {
            None => self.given.clone(),
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    TokenError::Unreadable { flag, file: file.to_path_buf(), error }
                })?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        if self.secret.is_empty() {
            return Err(TokenError::Empty { flag });
        }
        // An Authorization header holds nothing else, so no client could send it.
        if !self.secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotPrintable { flag });
        }
        Ok(())
    }
}

impl FromStr for TokenFlag {
    type Err = std::convert::Infallible;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        Ok(Self { given: given.to_owned(), secret: String::new() })
    }
}

impl fmt::Debug for TokenFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

/// Why a token can't be used; names its flag.
#[derive(Debug)]
pub enum TokenError {
    /// The file can't be read.
    Unreadable {
        /// The flag without its dashes.
        flag: &'static str,
        /// The file that the flag names.
        file: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// An empty token would let everyone in.
    Empty {
        /// The flag without its dashes.
        flag: &'static str,
    },
    /// The token has spaces, control characters or characters outside ASCII.
    NotPrintable {
        /// The flag without its dashes.
        flag: &'static str,
    },
}

impl std::error::Error for TokenError {}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { flag, file, error } => {
                write!(f, "--{flag}: can't read {}: {error}", file.display())
            }
            Self::Empty { flag } => {
                write!(f, "--{flag} is empty; omit the flag to require no token")
            }
            Self::NotPrintable { flag } => write!(
                f,
                "--{flag} has characters that an Authorization header can't hold; \
                 use letters, digits and -._~+/= only"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &str) -> Result<TokenFlag, String> {
        let Ok(mut token) = given.parse::<TokenFlag>();
        token.read("token").map(|()| token).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_a_value_or_a_file_and_is_never_shown() {
        let file = std::env::temp_dir().join(format!("sigmad-flags-{}", std::process::id()));
        let at_file = format!("@{}", file.display());
        for (content, expected) in [
            (&b"s3cret\n"[..], Ok("s3cret")),
            (b"s3cret", Ok("s3cret")),
            (b"s3cret\r\n", Ok("s3cret")),
            (b"\n", Err("--token is empty")),
            (b"two words", Err("--token has characters")),
            (b"two\nlines", Err("--token has characters")),
            (b"\xff\xfe", Err("can't read")),
        ] {
            std::fs::write(&file, content).expect("a temporary file");
            match (read(&at_file), expected) {
                (Ok(token), Ok(secret)) => assert_eq!(token.secret(), secret),
                (Err(error), Err(reason)) => assert!(error.contains(reason), "{error}"),
                (found, _) => panic!("{content:?}: {found:?}"),
            }
        }
        std::fs::remove_file(&file).expect("it was written");
        assert!(read(&at_file).expect_err("no file").starts_with("--token: can't read"));
        assert!(read("").expect_err("empty").contains("--token is empty"));

        let token = read("s3cret").expect("a token");
        assert_eq!((token.secret(), token.given_file()), ("s3cret", None));
        assert_eq!(format!("{token:?}"), "set");
    }
}
