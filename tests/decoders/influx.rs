//! The decoder of line protocol agrees with a plain reader, whatever the body.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::lines::Checked;

const NAMES: &[&str] =
    &["cpu", "disk io", "a,b", "a=b", "ä", "x\\y", "v", "host", "device", "#", "q\"", ""];
const VALUES: &[&str] = &[
    "1",
    "60.5",
    "-0",
    "12i",
    "-3i",
    "7u",
    "t",
    "FALSE",
    "nan",
    "-inf",
    "1e3",
    "1e400",
    "1e16",
    "0.30000000000000004",
    "123456789012345678",
    "9223372036854775808i",
    "",
    "x",
    "1.2.3",
    "+1",
    ".5",
    "\"text\"",
    "\"two\nlines\"",
    "\"q \\\" \\\\\"",
    "\"open",
    "\"a\"b",
    "1_0",
    "0x1",
];
const TIMES: &[&str] = &[
    "",
    " ",
    " 1735100000000000999",
    " 0",
    " -1",
    " 9223372036854775807",
    " 9223372036854775808",
    " 12 13",
    " x",
    "\t7",
    " 1735100000000000999 ",
    " 5,6",
];
const ENDS: &[&str] = &["\n", "\r\n", "\n\n", "\n# comment \"\n", " \n  ", ""];

fn escaped() -> impl Strategy<Value = String> {
    (select(NAMES), any::<bool>()).prop_map(|(name, is_escaped)| {
        let escape = |text: &str| text.replace(',', "\\,").replace('=', "\\=").replace(' ', "\\ ");
        if is_escaped { escape(name) } else { name.to_owned() }
    })
}

fn line() -> impl Strategy<Value = String> {
    let tags = vec((escaped(), escaped()), 0..3);
    let fields = vec((escaped(), select(VALUES)), 0..4);
    (escaped(), tags, fields, select(TIMES), select(ENDS)).prop_map(
        |(measurement, tags, fields, time, end)| {
            let tags: String =
                tags.iter().map(|(name, value)| format!(",{name}={value}")).collect();
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{measurement}{tags} {}{time}{end}", fields.join(","))
        },
    )
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(line(), 0..6).prop_map(|lines| lines.concat().into_bytes())
}

const EXAMPLES: &[&str] = &[
    "cpu,host=edge-17,cpu=cpu0 usage_idle=60.5,cores=8i,up=t,os=\"linux\" 1735100000000000000\n",
    "disk\\ io,path=/var\\ log\\,x\\=1 read\\ time=1u\r\n# comment\n\nm v=1 7\nm v= 8\nm v=2",
    "x,t=a\\b v=3,s=\"two\nlines, \\\"v=4\\\" \\\\\" 7000\ny v=5",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn on_any_body(body in body()) {
        Checked::new().check(&body);
    }

    #[test]
    fn on_damaged_bodies(body in body(), at in any::<usize>(), byte in any::<u8>(), end in any::<usize>()) {
        let mut body = body;
        if !body.is_empty() {
            let length = body.len();
            body[at % length] = byte;
            body.truncate(end % (2 * length));
        }
        Checked::new().check(&body);
    }
}

#[test]
fn on_every_prefix_of_every_example() {
    let mut checked = Checked::new();
    for example in EXAMPLES {
        for end in 0..=example.len() {
            checked.check(&example.as_bytes()[..end]);
        }
    }
}

#[test]
fn on_every_byte_of_every_example_replaced() {
    let mut checked = Checked::new();
    for example in EXAMPLES {
        for at in 0..example.len() {
            for byte in b",= \"\\\n\r#\0ti0.-e\x7F\x80\xFF" {
                let mut body = example.as_bytes().to_vec();
                body[at] = *byte;
                checked.check(&body);
            }
        }
    }
}
