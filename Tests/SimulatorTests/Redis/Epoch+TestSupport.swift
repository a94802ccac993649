import LockEngine
import LockTypes
import RESP
import RedisLeases

extension EpochID {
  /// The epoch of tests that are about something else.
  static let tested = EpochID(number: 5, text: "5:a/1f:3")
}

extension GrantTerms {
  /// In the epoch of tests that are about something else.
  static let tested = GrantTerms(epoch: .tested)

  static func tested(above floor: Token) -> GrantTerms { GrantTerms(epoch: .tested, tokenFloor: floor) }
}

extension RedisModel {
  static let testedEpochKey: Bytes = "t:epoch"

  /// The data set is in the epoch of ``EpochID/tested``.
  func beginEpoch(_ stage: String = "o", graceMilliseconds: Int64 = 10_000) {
    putEpoch("1;\(EpochID.tested.text);\(stage);-;0;\(graceMilliseconds);10000;0")
  }

  /// Something stands in the epoch's key; nil: nothing.
  func putEpoch(_ value: String?) {
    store(Self.testedEpochKey, value.map { Entry(value: .string(Bytes($0)), expiresAtMilliseconds: nil) })
  }

  var epochText: String? {
    guard case .string(let text)? = peek(Self.testedEpochKey)?.value else { return nil }
    return text.text
  }

  /// The keys that are alive, but for the epoch's.
  func liveLockKeys() -> [Bytes] { liveKeys().filter { $0 != Self.testedEpochKey } }
}
