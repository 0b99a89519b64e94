//! How large this machine is and how much of it is in use, as the kernel tells. What follows from it is the balancer's
//! business (`sql/functions/38_place.sql`).

use std::fs::read_to_string;

use crate::db::Load;

/// Looks at this machine. What cannot be read counts as nothing.
pub fn look() -> Load {
    let read = |path| read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    Load {
        ram: memory(&meminfo, "MemTotal:"),
        cpu: usable_cpu(&read("/proc/cpuinfo")),
        free_ram: memory(&meminfo, "MemAvailable:"),
        cpu_pressure: match read_to_string("/proc/pressure/cpu") {
            Ok(pressure) => stalled(&pressure),
            // Kernels without pressure figures.
            Err(_) => waiting(&read("/proc/loadavg"), std::thread::available_parallelism().map_or(1, usize::from)),
        },
    }
}

/// A line of meminfo in MB: its kB/1000, as classic QVD counts.
fn memory(meminfo: &str, name: &str) -> f32 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f32>().ok())
        .map_or(0.0, |kib| kib / 1000.0)
}

/// Four fifths of all bogomips, as classic QVD counts.
fn usable_cpu(cpuinfo: &str) -> f32 {
    let bogomips = cpuinfo.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("bogomips").then(|| value.trim().parse::<f32>().ok())?
    });
    bogomips.sum::<f32>() * 0.8
}

/// Share of the last ten seconds in which some task waited for a processor.
fn stalled(pressure: &str) -> f32 {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "));
    let percent = some.and_then(|words| words.split(' ').find_map(|word| word.strip_prefix("avg10=")?.parse().ok()));
    (percent.unwrap_or(0.0_f32) / 100.0).clamp(0.0, 1.0)
}

/// Share of those who want to run that had to wait in the last minute.
fn waiting(loadavg: &str, processors: usize) -> f32 {
    let load = loadavg.split(' ').next().and_then(|word| word.parse::<f32>().ok()).unwrap_or(0.0);
    if load > processors as f32 { 1.0 - processors as f32 / load } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processors_are_counted_as_classic_qvd_does() {
        let meminfo = "MemFree: 1 kB\nMemTotal:       24689412 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(memory(meminfo, "MemTotal:"), 24689.412);
        assert_eq!(memory(meminfo, "MemAvailable:"), 20000.0);
        assert_eq!(memory("", "MemTotal:"), 0.0);
        assert_eq!(usable_cpu("bogomips\t: 5000.0\n\nbogomips\t: 5000.0\n"), 8000.0);
        assert_eq!(usable_cpu(""), 0.0);
    }

    #[test]
    fn pressure_is_the_share_of_time_or_of_tasks_that_waited() {
        let pressure =
            "some avg10=12.50 avg60=3.00 avg300=1.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(stalled(pressure), 0.125);
        assert_eq!(stalled(""), 0.0);
        assert_eq!(waiting("8.00 1.00 1.00 3/100 77", 2), 0.75);
        assert_eq!(waiting("1.50 1.00 1.00 3/100 77", 2), 0.0);
    }
}
