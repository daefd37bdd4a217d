use super::*;

fn target(url: &str) -> Target {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn every_form_is_parsed_and_printed_without_passwords() {
    for (url, shown) in [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://localhost/", "redis://localhost:6379"),
        ("redis://127.0.0.1:7000/0", "redis://127.0.0.1:7000"),
        ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
        ("rediss://my-redis.internal", "rediss://my-redis.internal:6379"),
        ("redis://[::1]", "redis://[::1]:6379"),
        ("redis://[fd00::7]:7000/1", "redis://[fd00::7]:7000/1"),
        ("redis://:s3cret@h", "redis://:***@h:6379"),
        ("redis://sigmad:s3cret@h:1", "redis://sigmad:***@h:1"),
        ("redis://si%40gmad:s3cret@h", "redis://si%40gmad:***@h:6379"),
        ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main"),
        (
            "rediss+sentinel://u:s3cret@a,b/my-master.1/2?sentinel_password=s3cret",
            "rediss+sentinel://u:***@a:26379,b:26379/my-master.1/2?sentinel_password=***",
        ),
        ("redis+cluster://:s3cret@a,[::1]:1/", "redis+cluster://:***@a:6379,[::1]:1"),
        ("rediss+cluster://a/0", "rediss+cluster://a:6379"),
    ] {
        let target = target(url);
        assert_eq!(target.to_string(), shown, "{url}");
        assert_eq!(format!("{target:?}"), shown, "{url}");
        assert!(!format!("{:?}", target.login).contains("s3cret"));
    }
}

fn text(password: Option<&Password>) -> Option<String> {
    password.map(|password| password.read().expect("a password"))
}

#[test]
fn a_password_is_in_the_url_or_in_its_own_flag() {
    let given = || "s3cret".parse::<Password>().ok();
    for (url, user) in
        [("redis://h", None), ("redis://u@h", Some("u")), ("redis+cluster://u@h", Some("u"))]
    {
        let target = target(url).with_password(given()).expect("one password");
        assert!(target.has_secret() && !format!("{target:?} {:?}", given()).contains("s3cret"));
        let login = target.login.expect("a login");
        assert_eq!(
            (login.user.as_deref(), text(login.password.as_ref())),
            (user, Some("s3cret".into()))
        );
    }
    let both = target("redis://u:p@h").with_password(given()).expect_err("two");
    assert_eq!(both, LoginError::TwoPasswords);
    let message = both.to_string();
    assert!(message.contains("--redis-url") && message.contains("--redis-password"));
    assert_eq!(target("redis://s3cret@h").with_password(None), Err(LoginError::NoPassword));
    assert!(target("redis://h").with_password(None).is_ok_and(|target| target.login.is_none()));
    assert!(target("redis://:p@h").with_password(None).is_ok());
}

#[test]
fn a_password_is_read_from_its_file_each_time() {
    let file = std::env::temp_dir().join(format!("sigmad-password-{}", std::process::id()));
    let given = format!("@{}", file.display());
    let Ok(password) = given.parse::<Password>();
    for (content, expected) in [
        ("first\n", Some("first")),
        ("second", Some("second")),
        ("a b\r\n", Some("a b")),
        ("\n", None),
    ] {
        std::fs::write(&file, content).expect("a temporary file");
        assert_eq!(password.read().ok().as_deref(), expected);
    }
    std::fs::remove_file(&file).expect("it was written");
    assert!(password.read().is_err());
    assert_eq!(password.given_file(), Some(given));
}

#[test]
fn users_and_passwords_are_decoded() {
    for (url, user, password) in [
        ("redis://:p%40%2F%3a%25@h", None, "p@/:%"),
        ("redis://u:p:q@h", Some("u"), "p:q"),
        ("redis://u:p@q@h", Some("u"), "p@q"),
        ("redis://u:100%@h", Some("u"), "100%"),
        ("redis://u:a+b@h", Some("u"), "a+b"),
        ("redis://%C3%BC:%C3%A9@h", Some("ü"), "é"),
    ] {
        let login = target(url).login.expect("a login");
        let found = text(login.password.as_ref());
        assert_eq!((login.user.as_deref(), found.as_deref()), (user, Some(password)), "{url}");
    }
    assert_eq!(target("redis://h").login, None);
}

#[test]
fn sentinels_get_their_own_password_and_no_other() {
    for (url, expected) in [
        ("redis+sentinel://u:p@a/m", None),
        ("redis+sentinel://u:p@a/m?sentinel_password=q%26", Some("q&")),
    ] {
        let Topology::Sentinel { login, .. } = target(url).topology else {
            panic!("{url}: no sentinels");
        };
        assert!(login.as_ref().is_none_or(|login| login.user.is_none()));
        let found = text(login.and_then(|login| login.password).as_ref());
        assert_eq!(found.as_deref(), expected, "{url}");
    }
}

#[test]
fn errors_name_the_cause_without_the_password() {
    for (url, error) in [
        ("", UrlError::Scheme),
        ("localhost:6379", UrlError::Scheme),
        ("http://localhost", UrlError::Scheme),
        ("unix:///run/redis.sock", UrlError::Scheme),
        ("redis+unix:///run/redis.sock", UrlError::Scheme),
        ("redis+://h", UrlError::Scheme),
        ("redis:/h", UrlError::Scheme),
        ("redis://", UrlError::Host),
        ("redis:///1", UrlError::Host),
        ("redis://:s3cret@", UrlError::Host),
        ("redis://h h", UrlError::Host),
        ("redis://[h]", UrlError::Host),
        ("redis://[::1", UrlError::Host),
        ("redis://[::1]7000", UrlError::Host),
        ("redis+cluster://a,,b", UrlError::Host),
        ("redis://::1", UrlError::Host),
        ("redis://h:", UrlError::Port),
        ("redis://h:0", UrlError::Port),
        ("redis://h:65536", UrlError::Port),
        ("redis://h:+1", UrlError::Port),
        ("redis://a,b", UrlError::SeveralHosts),
        ("redis://@h", UrlError::Password),
        ("redis://:@h", UrlError::Password),
        ("redis://u:@h", UrlError::Password),
        ("redis://:%ff@h", UrlError::NotUtf8),
        ("redis://:s3/cret@h", UrlError::Unencoded),
        ("redis://:s3?cret@h", UrlError::Unencoded),
        ("redis://:s3#cret@h", UrlError::Unencoded),
        ("redis://h/one", UrlError::Database),
        ("redis://h/-1", UrlError::Database),
        ("redis://h/+1", UrlError::Database),
        ("redis://h/1/2", UrlError::Database),
        ("redis://h?db=1", UrlError::Parameter),
        ("redis+cluster://a/1", UrlError::ClusterDatabase),
        ("redis+cluster://a?sentinel_password=s3cret", UrlError::Parameter),
        ("redis+sentinel://a", UrlError::Master),
        ("redis+sentinel://a/", UrlError::Master),
        ("redis+sentinel://a/my master", UrlError::Master),
        ("redis+sentinel://a/m/x", UrlError::Database),
        ("redis+sentinel://a/m?password=s3cret", UrlError::Parameter),
        ("redis+sentinel://a/m?sentinel_password=", UrlError::Parameter),
        ("redis+sentinel://a/m?sentinel_password=s3cret&x=1", UrlError::Parameter),
    ] {
        assert_eq!(url.parse::<Target>(), Err(error), "{url}");
        assert!(!error.to_string().contains("s3cret"));
    }
    let many = format!("redis+cluster://{}", vec!["h"; HOSTS_MAX + 1].join(","));
    assert_eq!(many.parse::<Target>(), Err(UrlError::TooManyHosts));
}
