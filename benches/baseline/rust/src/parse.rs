//! Bodies to samples, by way of `serde_json::Value`.

use serde_json::Value;

use crate::sample::{Sample, now_s};

/// The samples of a body: one object, an array, `{"metrics":[…]}`, or several of these after each other.
///
/// # Errors
/// With a message for the client; nothing of the body is kept then.
pub fn samples(body: &[u8]) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
        let value = value.map_err(|error| error.to_string())?;
        match value.get("metrics").unwrap_or(&value) {
            Value::Array(values) => {
                for value in values {
                    samples.push(sample(value)?);
                }
            }
            value => samples.push(sample(value)?),
        }
    }
    if samples.is_empty() { Err("no samples".to_owned()) } else { Ok(samples) }
}

fn sample(value: &Value) -> Result<Sample, String> {
    let Value::Object(fields) = value else {
        return Err("a sample is an object".to_owned());
    };
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(format!("{name} is not a number")),
    };
    let device = match fields.get("device").or_else(|| fields.get("device_id")) {
        None | Some(Value::Null) => None,
        Some(Value::String(device)) => Some(device.clone()),
        Some(_) => return Err("device is not a string".to_owned()),
    };
    let timestamp = match fields.get("timestamp") {
        None | Some(Value::Null) => now_s(),
        Some(value) => value.as_i64().ok_or("timestamp is not a whole number")?,
    };
    Sample { timestamp, device, cpu: number("cpu")?, rps: number("rps")? }.check()
}
