//! User and password, and where the password comes from.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::error::UrlError;

/// User and password. Prints without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// None: the default user.
    pub user: Option<String>,
    /// None until `--redis-password` gives it.
    pub password: Option<Password>,
}

/// Where a password comes from. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password.
    Text(String),
    /// The file that holds it. Each login reads it, so that a file that changes needs no restart.
    File(PathBuf),
}

impl Password {
    /// The password of this moment: never empty, without the line end of its file.
    ///
    /// # Errors
    /// When the file can't be read, or when there is no password.
    pub fn read(&self) -> io::Result<String> {
        let password = match self {
            Self::Text(text) => text.clone(),
            Self::File(file) => {
                std::fs::read_to_string(file)?.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        if password.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the password is empty"));
        }
        Ok(password)
    }

    /// The value of the flag if it names a file: the name is no secret.
    pub fn given_file(&self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::File(file) => Some(format!("@{}", file.display())),
        }
    }
}

impl FromStr for Password {
    type Err = std::convert::Infallible;

    /// The value of a flag: the password, or `@` and the path of its file.
    fn from_str(given: &str) -> Result<Self, Self::Err> {
        Ok(match given.strip_prefix('@') {
            Some(file) => Self::File(file.into()),
            None => Self::Text(given.to_owned()),
        })
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or("default"))
    }
}

/// Why URL and `--redis-password` do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// Both have a password.
    TwoPasswords,
    /// A user without a password.
    NoPassword,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoPasswords => {
                "--redis-url has a password, and so has --redis-password: give only one of them"
            }
            Self::NoPassword => {
                "--redis-url has a user without a password: give it as user:password@, or in --redis-password"
            }
        })
    }
}

impl std::error::Error for LoginError {}

impl FromStr for Login {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
            None => (decoded(text)?, None),
        };
        if password.as_ref().map_or(&user, |password| password).is_empty() {
            return Err(UrlError::Password);
        }
        let user = Some(user).filter(|user| !user.is_empty());
        Ok(Self { user, password: password.map(Password::Text) })
    }
}

/// Without its percent-encoding.
pub(super) fn decoded(text: &str) -> Result<String, UrlError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::NotUtf8)?;
    Ok(text.into_owned())
}
