import NIOCore

/// Passes what happens on a client's channel to ``ClientRegistry`` and ``ClientInput``.
final class ClientChannelHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  private let registry: ClientRegistry
  private let input: ClientInput
  private var session: ClientSession?
  /// The connection was made to a daemon before this one; ``take(_:)`` gives its session.
  private let isTakenOver: Bool
  private let peer: (any Channel) -> Peer?

  /// - Parameter peer: tells who is at the other end of a channel.
  init(
    registry: ClientRegistry, input: ClientInput, isTakenOver: Bool = false,
    peer: @escaping (any Channel) -> Peer? = { Peer(channel: $0) }
  ) {
    self.registry = registry
    self.input = input
    self.isTakenOver = isTakenOver
    self.peer = peer
  }

  func channelActive(context: ChannelHandlerContext) {
    if !isTakenOver { session = registry.accepted(context.channel, from: peer(context.channel)) }
  }

  /// The session of a connection that was taken over.
  func take(_ session: ClientSession) {
    self.session = session
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if let session { input.received(unwrapInboundIn(data), from: session) }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if let event = event as? ChannelEvent, event == .inputClosed, let session { input.inputEnded(of: session) }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if let session { input.writabilityChanged(of: session) }
  }

  func channelInactive(context: ChannelHandlerContext) {
    if let session { registry.closed(session) }
    session = nil
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
