//! Which transactions a read of the source has seen.

use std::str::FromStr;

/// What `pg_current_snapshot()` prints: `xmin:xmax:xip,xip,..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether the effects of a committed transaction were visible. `xid` is the 32-bit number that the stream knows;
    /// it lies within two billion of the snapshot, as all live ones do.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }

    /// The 64-bit number nearest to the snapshot that ends in these 32 bits.
    fn widen(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.wrapping_add_signed(i64::from(distance))
    }
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a snapshot");
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| bad());
        let mut fields = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(bad());
        };
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Self { xmin: number(xmin)?, xmax: number(xmax)?, running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_ended_and_nothing_that_ran_or_came_later() {
        let snapshot: Snapshot = "100:105:100,103".parse().unwrap();
        let seen: Vec<u32> = (98..108).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [98, 99, 101, 102, 104]);
    }

    #[test]
    fn numbers_that_wrapped_around_are_read_near_the_snapshot() {
        let epoch = 1u64 << 32;
        let snapshot: Snapshot = format!("{0}:{0}:", epoch + 5).parse().unwrap();
        assert!(snapshot.sees(u32::MAX) && snapshot.sees(4) && !snapshot.sees(5) && !snapshot.sees(6));
        let snapshot: Snapshot = format!("{0}:{0}:", epoch - 5).parse().unwrap();
        assert!(!snapshot.sees(3), "a transaction of the next epoch is in the future");
    }

    #[test]
    fn text_that_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "1:x:", "1:2:3:4", "1:2:a"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
