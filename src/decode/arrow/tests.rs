use std::sync::Arc;

use arrow_array::builder::StringDictionaryBuilder;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, Date32Array, Date64Array, LargeStringArray,
    PrimitiveArray, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_ipc::writer::StreamWriter;
use proptest::prelude::*;
use proptest::sample::select;
use sigmad_sample::QUEUE_SAMPLES_MAX;

use super::super::testing::{NOW, Server, Value, value};
use super::super::{BodyError, Format};
use super::{NO_NUMBERS, NOT_A_STREAM};

const NEVER: &str = "the time must not be before 1970 or past the year 2262";

/// The column of a type, null where a value is missing.
fn column<A: FromIterator<Option<T>> + arrow_array::Array + 'static, T>(
    values: impl IntoIterator<Item = Option<T>>,
) -> ArrayRef {
    Arc::new(values.into_iter().collect::<A>())
}

fn numbers<T: ArrowPrimitiveType>(values: impl IntoIterator<Item = Option<T::Native>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<PrimitiveArray<T>>())
}

fn floats(values: &[f64]) -> ArrayRef {
    numbers::<Float64Type>(values.iter().map(|value| Some(*value)))
}

fn texts(values: &[&str]) -> ArrayRef {
    column::<StringArray, _>(values.iter().map(|text| Some(*text)))
}

/// A stream with one batch for each table, all of one schema.
fn stream(tables: &[&[(&str, ArrayRef)]]) -> Vec<u8> {
    let tables: Vec<_> = tables
        .iter()
        .map(|columns| RecordBatch::try_from_iter(columns.to_vec()).expect("columns of one length"))
        .collect();
    let mut writer = StreamWriter::try_new(Vec::new(), &tables[0].schema()).expect("into memory");
    for table in &tables {
        writer.write(table).expect("into memory");
    }
    writer.into_inner().expect("into memory")
}

fn read(columns: &[(&str, ArrayRef)]) -> Vec<Value> {
    Server::new().read(&stream(&[columns]), Format::Arrow)
}

/// What a stream that is refused is told.
fn fault(body: &[u8]) -> BodyError {
    Server::new().decode(body, Format::Arrow).expect_err("a fault")
}

#[test]
fn numbers_of_every_type_are_values_and_null_is_none() {
    type Half = <Float16Type as ArrowPrimitiveType>::Native;
    let half = [Some(Half::from_f32(1.5)), None, Some(Half::from_f32(-2.0))];
    let signed = [Some(1), None, Some(-2)];
    let unsigned = [Some(1), None, Some(200)];
    for (array, first, last) in [
        (numbers::<Float16Type>(half), 1.5, -2.0),
        (numbers::<Float32Type>([Some(1.5), None, Some(-2.0)]), 1.5, -2.0),
        (numbers::<Float64Type>([Some(1.5), None, Some(-2.0)]), 1.5, -2.0),
        (numbers::<Int8Type>(signed), 1.0, -2.0),
        (numbers::<Int16Type>(signed.map(|n| n.map(i16::from))), 1.0, -2.0),
        (numbers::<Int32Type>(signed.map(|n| n.map(i32::from))), 1.0, -2.0),
        (numbers::<Int64Type>(signed.map(|n| n.map(i64::from))), 1.0, -2.0),
        (numbers::<UInt8Type>(unsigned), 1.0, 200.0),
        (numbers::<UInt16Type>(unsigned.map(|n| n.map(u16::from))), 1.0, 200.0),
        (numbers::<UInt32Type>(unsigned.map(|n| n.map(u32::from))), 1.0, 200.0),
        (numbers::<UInt64Type>(unsigned.map(|n| n.map(u64::from))), 1.0, 200.0),
    ] {
        let kind = array.data_type().clone();
        let is_flag = column::<BooleanArray, _>([Some(true); 3]);
        let times = column::<TimestampSecondArray, _>([Some(1), Some(2), Some(3)]);
        let found = read(&[("load", array), ("is_up", is_flag), ("ts", times)]);
        let expected =
            [value(None, "load", 1_000_000, first), value(None, "load", 3_000_000, last)];
        assert_eq!(found, expected, "{kind}");
    }
}

#[test]
fn times_of_every_type_are_moments_and_null_is_arrival() {
    let day = 86_400_000_000;
    for (times, expected) in [
        (column::<TimestampSecondArray, _>([Some(3), None]), 3_000_000),
        (column::<TimestampMillisecondArray, _>([Some(3_007), None]), 3_007_000),
        (column::<TimestampMicrosecondArray, _>([Some(3_000_007), None]), 3_000_007),
        (column::<TimestampNanosecondArray, _>([Some(3_000_007_999), None]), 3_000_007),
        (column::<Date64Array, _>([Some(86_400_000), None]), day),
        (column::<Date32Array, _>([Some(2), None]), 2 * day),
        (numbers::<Int64Type>([Some(1_735_100_001), None]), 1_735_100_001_000_000),
        (numbers::<Float64Type>([Some(1_735_100_001.5), None]), 1_735_100_001_500_000),
        (column::<StringArray, _>([Some("1970-01-01T00:00:03Z"), None]), 3_000_000),
        (column::<LargeStringArray, _>([Some("1970-01-01T00:00:03Z"), None]), 3_000_000),
        (column::<StringViewArray, _>([Some("1970-01-01T00:00:03Z"), None]), 3_000_000),
    ] {
        let kind = times.data_type().clone();
        let found = read(&[("v", floats(&[1.0, 2.0])), ("time", times)]);
        let expected = [value(None, "v", expected, 1.0), value(None, "v", NOW.wall_us, 2.0)];
        assert_eq!(found, expected, "{kind}");
    }
}

#[test]
fn a_time_that_no_moment_has_refuses_its_row() {
    for times in [
        column::<TimestampSecondArray, _>([Some(i64::MAX), Some(1)]),
        column::<TimestampMillisecondArray, _>([Some(-1), Some(1_000)]),
        column::<TimestampMicrosecondArray, _>([Some(i64::MAX), Some(1_000_000)]),
        column::<TimestampNanosecondArray, _>([Some(-1), Some(1_000_000_000)]),
        column::<StringArray, _>([Some("never"), Some("1970-01-01T00:00:01Z")]),
    ] {
        let kind = times.data_type().clone();
        let mut server = Server::new();
        let body = stream(&[&[("v", floats(&[1.0, 2.0])), ("time", times)]]);
        assert_eq!(server.read(&body, Format::Arrow), [value(None, "v", 1_000_000, 2.0)], "{kind}");
        assert_eq!(server.refusals(), [(0, NEVER)], "{kind}");
    }
}

#[test]
fn the_device_is_a_text_of_any_type_and_no_device_where_it_is_null() {
    let mut dictionary = StringDictionaryBuilder::<Int8Type>::new();
    dictionary.append_value("b");
    dictionary.append_null();
    dictionary.append_value("a");
    let plain = [Some("b"), None, Some("a")];
    for devices in [
        column::<StringArray, _>(plain),
        column::<LargeStringArray, _>(plain),
        column::<StringViewArray, _>(plain),
        Arc::new(dictionary.finish()) as ArrayRef,
    ] {
        let kind = devices.data_type().clone();
        let found = read(&[("device", devices), ("v", floats(&[1.0, 2.0, 3.0]))]);
        let expected = [
            value(Some("b"), "v", NOW.wall_us, 1.0),
            value(None, "v", NOW.wall_us, 2.0),
            value(Some("a"), "v", NOW.wall_us, 3.0),
        ];
        assert_eq!(found, expected, "{kind}");
    }
}

/// A dictionary without texts, whose rows are all null.
#[test]
fn an_empty_dictionary_names_no_device() {
    let mut dictionary = StringDictionaryBuilder::<Int8Type>::new();
    dictionary.append_null();
    let found = read(&[("device", Arc::new(dictionary.finish())), ("v", floats(&[1.0]))]);
    assert_eq!(found, [value(None, "v", NOW.wall_us, 1.0)]);
}

#[test]
fn the_first_names_of_the_lists_are_device_and_time() {
    let found = read(&[
        ("instance", texts(&["i"])),
        ("host", texts(&["h"])),
        ("device", texts(&["d"])),
        ("time", numbers::<Int64Type>([Some(1_735_100_002)])),
        ("ts", numbers::<Int64Type>([Some(1_735_100_001)])),
        ("v", floats(&[1.0])),
        ("note", texts(&["no number"])),
    ]);
    assert_eq!(found, [value(Some("d"), "v", 1_735_100_001_000_000, 1.0)]);
    // As labels have them: the order of the columns does not matter.
    for columns in [["instance", "host"], ["host", "instance"]] {
        let found = read(&[
            (columns[0], texts(&[columns[0]])),
            (columns[1], texts(&[columns[1]])),
            ("v", floats(&[1.0])),
        ]);
        assert_eq!(found, [value(Some("host"), "v", NOW.wall_us, 1.0)]);
    }
    // Neither a device nor a time of another type.
    let found = read(&[
        ("device", floats(&[7.0])),
        ("timestamp", column::<BooleanArray, _>([Some(true)])),
        ("ts", column::<TimestampSecondArray, _>([Some(2)])),
    ]);
    assert_eq!(found, [value(None, "device", 2_000_000, 7.0)]);
}

#[test]
fn rows_are_counted_through_all_batches() {
    let table = |times: [i64; 2], values: [f64; 2]| {
        [("time", column::<TimestampSecondArray, _>(times.map(Some))), ("v", floats(&values))]
    };
    let mut server = Server::new();
    let body = stream(&[&table([1, -1], [1.0, 2.0]), &table([-1, 4], [3.0, 4.0])]);
    let found = server.read(&body, Format::Arrow);
    assert_eq!(found, [value(None, "v", 1_000_000, 1.0), value(None, "v", 4_000_000, 4.0)]);
    assert_eq!(server.refusals(), [(1, NEVER), (2, NEVER)]);
}

/// The key of a series is its column and its device, whether the cache of series has room for the device or not.
#[test]
fn series_are_told_apart_when_the_cache_is_full() {
    let mut server = Server::new();
    // As many as the cache has entries, or more.
    let many: Vec<String> = (0..9_000).map(|at| format!("m{at}")).collect();
    let body: String = many.iter().map(|name| format!("{name},cpu=0 a=1,b=2\n")).collect();
    let options = super::super::LineOptions {
        precision: super::super::LinePrecision::Nanosecond,
        accepts_partial: true,
    };
    server.decode(body.as_bytes(), Format::LineProtocol(options)).expect("lines");
    let body = stream(&[&[
        ("device", texts(&["a", "b", "ab"])),
        ("x", floats(&[1.0, 2.0, 3.0])),
        ("xa", floats(&[4.0, 5.0, 6.0])),
    ]]);
    let expected: Vec<_> = [("a", 1.0, 4.0), ("b", 2.0, 5.0), ("ab", 3.0, 6.0)]
        .iter()
        .flat_map(|&(device, x, xa)| {
            let of = |name, number| value(Some(device), name, NOW.wall_us, number);
            [of("x", x), of("xa", xa)]
        })
        .collect();
    for _ in 0..2 {
        assert_eq!(server.read(&body, Format::Arrow), expected);
    }
}

#[test]
fn a_stream_ends_with_its_last_message() {
    let whole = stream(&[&[("v", floats(&[1.0]))]]);
    assert_eq!(Server::new().read(&whole, Format::Arrow).len(), 1);
    for end in 1..whole.len() - 8 {
        let cut = fault(&whole[..end]);
        // The schema alone is a table without rows.
        assert!([NOT_A_STREAM, BodyError::Empty].contains(&cut), "{end} bytes: {cut:?}");
    }
    // A reader may be told the end by the end of the body.
    let open = &whole[..whole.len() - 8];
    assert_eq!(Server::new().read(open, Format::Arrow).len(), 1);
    assert_eq!(fault(&[&whole[..], &[0; 8]].concat()), NOT_A_STREAM);
    assert_eq!(fault(b""), BodyError::Empty);
    let empty = stream(&[&[("v", floats(&[]))]]);
    assert_eq!(fault(&empty), BodyError::Empty);
}

#[test]
fn a_table_without_numbers_is_refused() {
    assert_eq!(fault(&stream(&[&[("device", texts(&["a"]))]])), NO_NUMBERS);
    assert_eq!(
        fault(&stream(&[&[("ts", numbers::<Int64Type>([Some(1)]))]])),
        NO_NUMBERS,
        "a number that is the time"
    );
}

#[test]
fn rows_are_bounded_over_all_batches() {
    let half = floats(&vec![1.0; QUEUE_SAMPLES_MAX / 2]);
    let one = floats(&[1.0]);
    let most = stream(&[&[("v", half.clone())], &[("v", half.clone())]]);
    assert_eq!(Server::new().read(&most, Format::Arrow).len(), QUEUE_SAMPLES_MAX);
    let more = stream(&[&[("v", half.clone())], &[("v", half)], &[("v", one)]]);
    assert_eq!(fault(&more), BodyError::TooManySamples);
    // Rows count, whether they have values or not.
    let nulls = |rows: usize| numbers::<Float64Type>(vec![None; rows]);
    let most = stream(&[&[("v", nulls(1))], &[("v", nulls(QUEUE_SAMPLES_MAX - 1))]]);
    assert_eq!(Server::new().read(&most, Format::Arrow), []);
    let more = stream(&[&[("v", nulls(2))], &[("v", nulls(QUEUE_SAMPLES_MAX - 1))]]);
    assert_eq!(fault(&more), BodyError::TooManySamples);
}

const COLUMNS: [&[&str]; 4] =
    [&["cpu", "rps"], &["rps", "load"], &["cpu", "requests_total"], &["cpu"]];

proptest! {
    /// Tables without nulls are read row by row. One with a null is read value by value, and says the same.
    #[test]
    fn whole_rows_say_what_their_values_say(
        tables in prop::collection::vec(
            (
                select(&COLUMNS[..]),
                prop::collection::vec(
                    (
                        select(&["a", "b", "c", "", "\u{1}"][..]),
                        0..3_i64,
                        prop::collection::vec(
                            prop_oneof![
                                9 => 0.0..1e3f64,
                                1 => select(&[f64::NAN, -0.0, 1e16, f64::INFINITY, -1e15][..]),
                            ],
                            2,
                        ),
                    ),
                    1..12,
                ),
            ),
            1..8,
        ),
    ) {
        let (mut whole, mut by_value) = (Server::new(), Server::new());
        for (names, rows) in &tables {
            let table = |has_null: bool| {
                let more = usize::from(has_null);
                let device = rows.iter().map(|(device, ..)| *device).chain([""].into_iter().take(more));
                let time = rows.iter().map(|(_, time, _)| *time).chain([0].into_iter().take(more));
                let mut columns = vec![
                    ("device", texts(&device.collect::<Vec<_>>())),
                    ("timestamp", numbers::<Int64Type>(time.map(|time| Some(1_735_100_000 + time)))),
                ];
                for (at, name) in names.iter().enumerate() {
                    let values = rows.iter().map(|(.., values)| Some(values[at]));
                    let values = values.chain([None].into_iter().take(more));
                    columns.push((name, numbers::<Float64Type>(values)));
                }
                stream(&[&columns])
            };
            let said = whole.read(&table(false), Format::Arrow);
            prop_assert_eq!(said, by_value.read(&table(true), Format::Arrow));
            prop_assert_eq!(whole.decoder.values(), by_value.decoder.values());
            prop_assert_eq!(whole.batch.len(), by_value.batch.len());
            prop_assert_eq!(whole.refusals(), by_value.refusals());
        }
    }
}
