//! Encodes stacks and values as a gzipped profile.proto with symbols, so that a reader needs no binary.

use std::collections::HashMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::{self, Message as _};

use super::kernel::is_kernel;
use super::symbols::Symbols;

/// The type and unit of a value: `("cpu", "nanoseconds")`.
pub type ValueKind = (&'static str, &'static str);

/// The fields of a whole profile.
#[derive(Clone, Copy, Debug)]
pub struct ProfileHeader<'a> {
    /// The types of each sample's values.
    pub sample_types: &'a [ValueKind],
    /// The type that is shown first.
    pub default_sample_type: &'static str,
    /// The type of the period between two samples.
    pub period_type: ValueKind,
    /// The mean period.
    pub period: i64,
    /// Start time, in microseconds since 1970.
    pub wall_us: i64,
    /// Duration; 0 for a snapshot.
    pub duration_ns: u64,
    /// Free text.
    pub comments: &'a [String],
}

/// One stack with its values.
#[derive(Clone, Copy, Debug)]
pub struct ProfileSample<'a> {
    /// Addresses, innermost first: the interrupted one, then return addresses.
    pub stack: &'a [u64],
    /// The first address is where the thread was interrupted, not a return address.
    pub is_leaf_exact: bool,
    /// In the order of [`ProfileHeader::sample_types`].
    pub values: &'a [i64],
    /// Names and texts.
    pub labels: &'a [(&'static str, &'a str)],
}

/// The address to resolve for the frame at `place`: a return address lies after its call.
pub fn address_at(sample: &ProfileSample<'_>, place: usize) -> u64 {
    let address = sample.stack[place];
    let is_exact = place == 0 && sample.is_leaf_exact;
    if is_exact { address } else { address.saturating_sub(1) }
}

/// Locations and labels.
type SampleKey = (Vec<u64>, Vec<(i64, i64)>);

/// A profile under construction.
struct Encoder<'s> {
    symbols: &'s mut Symbols,
    profile: protos::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, u64>,
    /// Equal stacks are added up.
    samples: HashMap<SampleKey, usize>,
    /// The id of the kernel's mapping; 0 before its first address.
    kernel_mapping: u64,
}

/// Writes the profile.
pub fn encode<'a>(
    about: &ProfileHeader<'_>,
    samples: impl IntoIterator<Item = ProfileSample<'a>>,
    symbols: &mut Symbols,
) -> Vec<u8> {
    let mut encoder = Encoder {
        symbols,
        profile: protos::Profile::default(),
        strings: HashMap::new(),
        functions: HashMap::new(),
        locations: HashMap::new(),
        samples: HashMap::new(),
        kernel_mapping: 0,
    };
    encoder.begin(about);
    for sample in samples {
        debug_assert_eq!(sample.values.len(), about.sample_types.len());
        encoder.add(&sample);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let written = packed.write_all(&encoder.profile.encode_to_vec());
    written.and_then(|()| packed.finish()).expect("a Vec takes everything")
}

impl Encoder<'_> {
    fn begin(&mut self, about: &ProfileHeader<'_>) {
        assert_eq!(self.string(""), 0, "the first string is the empty one");
        let types = about.sample_types.iter().map(|kind| self.value_type(*kind)).collect();
        self.profile.sample_type = types;
        self.profile.default_sample_type = self.string(about.default_sample_type);
        self.profile.period_type = Some(self.value_type(about.period_type));
        self.profile.period = about.period;
        self.profile.time_nanos = about.wall_us * 1_000;
        self.profile.duration_nanos = about.duration_ns as i64;
        self.profile.comment = about.comments.iter().map(|text| self.string(text)).collect();
        let images = self.symbols.images().iter();
        let images: Vec<_> =
            images.map(|image| (image.mapping.clone(), image.build_id.clone())).collect();
        for (place, (mapping, build_id)) in images.into_iter().enumerate() {
            let mapping = protos::Mapping {
                id: place as u64 + 1,
                memory_start: mapping.start,
                memory_limit: mapping.end,
                file_offset: mapping.offset,
                filename: self.string(&mapping.path),
                build_id: self.string(&build_id),
                // So that no tool looks for the file.
                has_functions: true,
                has_filenames: true,
                has_line_numbers: true,
                has_inline_frames: true,
            };
            self.profile.mapping.push(mapping);
        }
    }

    fn add(&mut self, sample: &ProfileSample<'_>) {
        let addresses = (0..sample.stack.len()).map(|place| address_at(sample, place));
        let stack: Vec<u64> = addresses.map(|address| self.location(address)).collect();
        let labels = sample.labels.iter();
        let labels: Vec<_> =
            labels.map(|(key, text)| (self.string(key), self.string(text))).collect();
        let key = (stack, labels);
        if let Some(place) = self.samples.get(&key) {
            let known = &mut self.profile.sample[*place].value;
            known.iter_mut().zip(sample.values).for_each(|(sum, value)| *sum += value);
            return;
        }
        let label = |(key, str): &(i64, i64)| protos::Label {
            key: *key,
            str: *str,
            ..protos::Label::default()
        };
        self.profile.sample.push(protos::Sample {
            location_id: key.0.clone(),
            value: sample.values.to_vec(),
            label: key.1.iter().map(label).collect(),
        });
        self.samples.insert(key, self.profile.sample.len() - 1);
    }

    fn location(&mut self, address: u64) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let frames = self.symbols.resolve(address);
        let line = frames.iter().map(|frame| protos::Line {
            function_id: self.function(&frame.function, &frame.file),
            line: i64::from(frame.line),
        });
        let line = line.collect();
        let mapping_id = if is_kernel(address) {
            self.kernel()
        } else {
            self.symbols.image_of(address).map_or(0, |place| place as u64 + 1)
        };
        let id = self.profile.location.len() as u64 + 1;
        let location = protos::Location { id, mapping_id, address, line, is_folded: false };
        self.profile.location.push(location);
        self.locations.insert(address, id);
        id
    }

    fn kernel(&mut self) -> u64 {
        if self.kernel_mapping == 0 {
            self.kernel_mapping = self.profile.mapping.len() as u64 + 1;
            let filename = self.string("[kernel]");
            self.profile.mapping.push(protos::Mapping {
                id: self.kernel_mapping,
                memory_start: 1 << 63,
                memory_limit: u64::MAX,
                filename,
                has_functions: true,
                ..protos::Mapping::default()
            });
        }
        self.kernel_mapping
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.string(name), self.string(file));
        let next = self.profile.function.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            let system_name = name;
            let function = protos::Function { id, name, system_name, filename, start_line: 0 };
            self.profile.function.push(function);
        }
        id
    }

    fn value_type(&mut self, (kind, unit): ValueKind) -> protos::ValueType {
        protos::ValueType { ty: self.string(kind), unit: self.string(unit) }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(place) = self.strings.get(text) {
            return *place;
        }
        let place = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), place);
        place
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_profile_is_read_again_as_it_was_written() {
        let here = a_profile_is_read_again_as_it_was_written as *const () as u64;
        let about = ProfileHeader {
            sample_types: &[("samples", "count"), ("cpu", "nanoseconds")],
            default_sample_type: "cpu",
            period_type: ("cpu", "nanoseconds"),
            period: 10_000_000,
            wall_us: 7,
            duration_ns: 8,
            comments: &["said".to_owned()],
        };
        let sample = ProfileSample {
            stack: &[here, here + 8],
            is_leaf_exact: true,
            values: &[1, 10],
            labels: &[("thread", "worker-0")],
        };
        let other = ProfileSample { labels: &[("thread", "worker-1")], ..sample };
        let mut symbols = Symbols::of_this_process();
        let packed = encode(&about, [sample, other, sample], &mut symbols);
        let mut bytes = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut bytes).expect("gzip");
        let profile = protos::Profile::decode(&*bytes).expect("profile.proto");
        let text = |place: i64| profile.string_table[place as usize].as_str();
        assert_eq!(text(profile.comment[0]), "said");
        assert_eq!((profile.time_nanos, profile.duration_nanos), (7_000, 8));
        assert_eq!(profile.sample.len(), 2, "equal stacks are added up");
        assert_eq!(profile.sample[0].value, [2, 20]);
        assert_eq!(text(profile.sample[1].label[0].str), "worker-1");
        let of = |id: u64| &profile.location[id as usize - 1];
        let [leaf, caller] = profile.sample[0].location_id[..] else { panic!("two locations") };
        assert_eq!((of(leaf).address, of(caller).address), (here, here + 7));
        let function =
            &profile.function[of(leaf).line.last().expect("a line").function_id as usize - 1];
        assert!(text(function.name).contains("a_profile_is_read_again"), "{}", text(function.name));
        let mapping = &profile.mapping[of(leaf).mapping_id as usize - 1];
        assert!((mapping.memory_start..mapping.memory_limit).contains(&here));
        assert!(!text(mapping.build_id).is_empty());
    }
}
