// What SentinelMachine asks of its caller, and tells.

public import LockTypes
public import RESP

extension SentinelMachine {
  /// What is to be done, in order.
  public enum Effect: Equatable, Sendable {
    /// Connect, listen and ask.
    case connect(ConnectionNumber, RedisAddress)
    /// Ask again over that connection.
    case ask(ConnectionNumber)
    /// Close it. Nothing that it still tells is heard.
    case close(ConnectionNumber)
    /// The search is over: this is the primary.
    case found(RedisAddress)
    /// The search is over, and why nothing was found.
    case notFound(String)
    /// The link to the server in use is of no use any more: this one is the primary.
    case switched(to: RedisAddress)
    /// The operator has to know.
    case tell(Notice)
  }

  /// What an operator is told, once for each change.
  public enum Notice: Equatable, Sendable {
    /// A Sentinel is of no use, and why.
    case useless(RedisAddress, String)
    /// Sentinels say different things; what each says.
    case disagreement(String)
    /// Nobody would tell of a failover; what each has come to.
    case nobodyListenedTo(String)
  }

  /// A change of the primary that this daemon has followed.
  public struct Failover: Equatable, Sendable {
    /// Where the primary was before.
    public var from: RedisAddress
    /// When the next one was in use.
    public var at: BootInstant
  }
}
