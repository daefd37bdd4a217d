//! `--listen unix:…`: a Unix socket, with its mode and its owners.

use nix::unistd::{Group, User};

use crate::http::listen::unix::{FileOwner, UnixSocket};

const OPTIONS: &str = "the options of a Unix socket are mode=0660, user=NAME and group=NAME, as in \
                       unix:/run/sigmad.sock?mode=0660&group=telegraf";
/// Reading, writing and executing. Other bits mean nothing for a socket.
const MODE_MAX: u32 = 0o777;

/// Parses `unix:/path?mode=0660&user=name&group=name`; names of users and groups are looked up, once.
pub(super) fn unix_socket(text: &str) -> Result<UnixSocket, String> {
    let (name, options) = text.split_once('?').unwrap_or((text, ""));
    let mut socket = UnixSocket { name: name.parse()?, mode: None, user: None, group: None };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let Some((word, value)) = option.split_once('=') else { return Err(OPTIONS.to_owned()) };
        let is_twice = match word {
            "mode" => socket.mode.replace(mode(value)?).is_some(),
            "user" => socket.user.replace(user(value)?).is_some(),
            "group" => socket.group.replace(group(value)?).is_some(),
            _ => return Err(OPTIONS.to_owned()),
        };
        if is_twice {
            return Err(format!("{word} is given twice"));
        }
        if socket.name.path().is_none() {
            return Err(format!("an abstract name has no file, and so no {word}"));
        }
    }
    Ok(socket)
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= MODE_MAX);
    // `from_str_radix` alone would take a sign.
    let mode = mode.filter(|_| text.starts_with(|first: char| first.is_ascii_digit()));
    mode.ok_or_else(|| format!("mode={text} must be octal, such as mode=0660"))
}

fn user(text: &str) -> Result<FileOwner, String> {
    owner("user", text, |name| {
        User::from_name(name).map(|found| found.map(|user| user.uid.as_raw()))
    })
}

fn group(text: &str) -> Result<FileOwner, String> {
    let find =
        |name: &str| Group::from_name(name).map(|found| found.map(|group| group.gid.as_raw()));
    owner("group", text, find)
}

/// The owner of this name; a number that is no name is an id, as for chown(1).
fn owner(
    word: &str,
    text: &str,
    find: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<FileOwner, String> {
    let found = find(text).map_err(|error| format!("{word}={text} can't be looked up: {error}"))?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    // The largest number means "unchanged" to chown(2).
    let number = || text.parse().ok().filter(|&id| is_number && id != u32::MAX);
    let id = found.or_else(number).ok_or_else(|| format!("there is no {word} {text:?}"))?;
    Ok(FileOwner { given: text.to_owned(), id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_shown_as_they_are_given() {
        for text in [
            "unix:/run/sigmad.sock",
            "unix:/run/sigmad.sock?mode=0660",
            "unix:/run/sigmad.sock?mode=0666&user=root&group=0",
            "unix:@sigmad",
        ] {
            assert_eq!(unix_socket(text).map(|socket| socket.to_string()), Ok(text.into()));
        }
        let socket = unix_socket("unix:///run/s?group=root&mode=600&user=12345").expect("good");
        assert_eq!(socket.to_string(), "unix:/run/s?mode=0600&user=12345&group=root");
        assert_eq!((socket.user.map(|user| user.id), socket.mode), (Some(12_345), Some(0o600)));
        assert_eq!(socket.group.map(|group| group.id), Some(0));
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (text, words) in [
            ("unix:run", "must be unix:/path"),
            ("unix:/s?mode=0999", "octal"),
            ("unix:/s?mode=+660", "octal"),
            ("unix:/s?mode=1777", "octal"),
            ("unix:/s?mode=", "octal"),
            ("unix:/s?user=no-such-user", "there is no user \"no-such-user\""),
            ("unix:/s?group=no-such-group", "there is no group \"no-such-group\""),
            ("unix:/s?group=", "there is no group"),
            ("unix:/s?user=4294967295", "there is no user"),
            ("unix:/s?mode", "the options"),
            ("unix:/s?owner=root", "the options"),
            ("unix:/s?mode=0600&mode=0660", "mode is given twice"),
            ("unix:@s?mode=0600", "abstract"),
        ] {
            let error = unix_socket(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
