//! Where the devices of the simulated fleet are.

/// Racks of devices, five in each city; each posts its own batch.
pub const RACKS: [&str; CITIES * RACKS_PER_CITY] = [
    "ams-1", "ams-2", "ams-3", "ams-4", "ams-5", "fra-1", "fra-2", "fra-3", "fra-4", "fra-5",
    "sgp-1", "sgp-2", "sgp-3", "sgp-4", "sgp-5", "sao-1", "sao-2", "sao-3", "sao-4", "sao-5",
];
/// Cities.
pub const CITIES: usize = 4;
/// Racks of a city: so many that no two of them change roles with one another.
pub const RACKS_PER_CITY: usize = 5;
/// Devices of a rack.
pub const DEVICES_PER_RACK: usize = 4;
