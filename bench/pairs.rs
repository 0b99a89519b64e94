//! What interleaved measurements of several proxies say about ours: the median of the ratios of each round to the best
//! of the others, where the best is the one with the best median.

use std::collections::BTreeMap;

use crate::proxy::Kind;

/// One figure of each proxy, one value for each round.
#[derive(Default)]
pub struct Rounds {
    values: BTreeMap<Kind, Vec<f64>>,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

impl Rounds {
    pub fn add(&mut self, kind: Kind, value: f64) {
        self.values.entry(kind).or_default().push(value);
    }

    pub fn median(&self, kind: Kind) -> f64 {
        self.values.get(&kind).map_or(f64::NAN, |values| median(values.clone()))
    }

    /// The spread of ours: smallest, median, largest.
    pub fn spread(&self, kind: Kind) -> [f64; 3] {
        let values = self.values.get(&kind).map_or(&[][..], Vec::as_slice);
        let pick = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        [pick(f64::min), self.median(kind), pick(f64::max)].map(|value| (value * 1000.0).round() / 1000.0)
    }

    /// The best of `peers`.
    pub fn best(&self, peers: &[Kind], better: Better) -> Option<Kind> {
        let order = |a: &Kind, b: &Kind| self.median(*a).total_cmp(&self.median(*b));
        match better {
            Better::Higher => peers.iter().copied().max_by(order),
            Better::Lower => peers.iter().copied().min_by(order),
        }
    }

    /// Median of ours in relation to a peer of the same round.
    pub fn ratio(&self, peer: Kind) -> f64 {
        self.ratio_of(Kind::Ours, peer)
    }

    /// Median of one in relation to another of the same round.
    pub fn ratio_of(&self, one: Kind, other: Kind) -> f64 {
        let empty = Vec::new();
        let of = |kind: Kind| self.values.get(&kind).unwrap_or(&empty);
        median(of(one).iter().zip(of(other)).map(|(one, other)| one / other).collect())
    }

    /// The ratio to the best of `peers`.
    pub fn ratio_to_best(&self, peers: &[Kind], better: Better) -> f64 {
        self.best(peers, better).map_or(f64::NAN, |best| self.ratio(best))
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length => (values[(length - 1) / 2] + values[length / 2]) / 2.0,
    }
}

/// The worst of several ratios: of each case, so that a good one does not hide a bad one.
pub fn worst(ratios: &[f64], better: Better) -> f64 {
    let choose = if better == Better::Higher { f64::min } else { f64::max };
    ratios.iter().copied().reduce(choose).unwrap_or(f64::NAN)
}

/// Geometric mean.
pub fn mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
