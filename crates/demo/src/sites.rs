//! Where the devices of the simulated fleet are.

/// Racks of devices, three in each of four cities; each posts its own batch.
pub const RACKS: [&str; 12] = [
    "ams-1", "ams-2", "ams-3", "fra-1", "fra-2", "fra-3", "sgp-1", "sgp-2", "sgp-3", "sao-1",
    "sao-2", "sao-3",
];
/// Racks of a city.
pub const RACKS_PER_CITY: usize = 3;
/// Devices of a rack.
pub const DEVICES_PER_RACK: usize = 4;
