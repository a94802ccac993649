/// Where the sidecar is in its life.
final class LifeStage {
  enum Stage {
    case starting
    case serving
    /// Clients and locks are being left to the daemon that follows.
    case handingOver
    case handedOver
    /// Locks are being given back.
    case draining
    /// The last replies are being sent.
    case closing
    case stopped
  }

  var stage = Stage.starting
}
