# frozen_string_literal: true

require "json"
require "socket"

# Locks over processes and hosts, from the sidelockd of this host:
#
#   Sidelock.lock("orders", wait: 5) { |lock| write(lock.token) }
module Sidelock
  LINE_BYTES_MAX = 65_536
  # Of a line that has not ended; what is longer comes from no daemon.
  UNENDED_BYTES_MAX = 1 << 20
  # Of more holds than these a ping does not say how long they are valid.
  HOLDS_TOLD_MAX = 64

  # How a hold ended without a release. The reason is connection_ended when the daemon has gone.
  Loss = Struct.new(:name, :token, :reason, :grace_ms, :detail)

  # Whatever goes wrong with a lock. `reason` is the stable name of errors.json, or one that this client found.
  class Error < StandardError
    attr_reader :reason, :data

    def initialize(message, reason = "", data = {})
      super(message)
      @reason = reason
      @data = data
    end

    # Who has the lock, as far as the daemon tells.
    def holders
      data["holders"].is_a?(Array) ? data["holders"] : []
    end
  end

  class Busy < Error; end
  class Timeout < Error; end
  class Cancelled < Error; end
  class NotHeld < Error; end
  class Denied < Error; end
  class Unavailable < Error; end

  # The wait would never have ended. `cycle` lists the waits of the circle.
  class Deadlock < Error
    def cycle
      data["cycle"].is_a?(Array) ? data["cycle"] : []
    end
  end

  # Too few replicas of Redis had the lease in time, so the lock was given back.
  class UnderReplicated < Error
    # How many had it; 0 also where the daemon does not tell.
    def acknowledged
      data["acknowledged"].is_a?(Integer) ? data["acknowledged"] : 0
    end
  end

  # The lock was lost: stop what it guarded.
  class Lost < Error
    attr_reader :loss

    def initialize(loss)
      super("lock #{loss.name} is lost: #{loss.detail || loss.reason}", "lost", { "lost" => loss.reason })
      @loss = loss
    end
  end

  TYPES = {
    "busy" => Busy, "timeout" => Timeout, "cancelled" => Cancelled, "not_held" => NotHeld, "denied" => Denied, "permission" => Denied,
    "unavailable" => Unavailable, "shutting_down" => Unavailable, "no_daemon" => Unavailable, "no_answer" => Unavailable,
    "connection_lost" => Unavailable, "deadlock" => Deadlock, "under_replicated" => UnderReplicated
  }.freeze

  def self.error(reason, message, data = {})
    TYPES.fetch(reason, Error).new(message, reason, data)
  end

  # The error that the `error` member of a reply describes.
  def self.refusal(reply)
    data = reply.is_a?(Hash) && reply["data"].is_a?(Hash) ? reply["data"] : {}
    message = (reply.is_a?(Hash) && reply["message"] || "the daemon gave no message").to_s
    error(data["reason"].to_s, data["detail"] ? "#{message}: #{data["detail"]}" : message, data)
  end

  # Seconds on a clock that goes on while the machine is suspended, and that nobody sets.
  def self.now
    Process.clock_gettime(Process::CLOCK_BOOTTIME)
  end

  # Milliseconds that the daemon told; nil where it is no time. Nothing of it is longer than a century.
  def self.time_of(value)
    value.clamp(0, 100 * 366 * 86_400 * 1000) if value.is_a?(Integer)
  end

  def self.milliseconds(seconds)
    [(seconds * 1000).ceil, 0].max
  end

  # Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
  def self.socket_path(explicit = nil)
    [explicit, ENV["SIDELOCK_SOCKET"]].each { |path| return path if path && !path.empty? }
    directory = ENV["XDG_RUNTIME_DIR"]
    if directory && !directory.empty?
      own = "#{directory}/sidelock/sidelock.sock"
      begin
        File.stat(own)
        return own
      rescue Errno::EACCES
        return own
      rescue SystemCallError
        nil
      end
    end
    "/run/sidelock/sidelock.sock"
  end

  # The name of this thread, which no other thread of this process has or had.
  def self.thread_owner
    Thread.current.thread_variable_get(:sidelock_owner) || OWNERS_MUTEX.synchronize do
      @owners = (@owners || 0) + 1
      Thread.current.thread_variable_set(:sidelock_owner, "thread-#{@owners}")
      "thread-#{@owners}"
    end
  end
  OWNERS_MUTEX = Mutex.new

  # A request that is not answered yet.
  class Request
    attr_reader :id, :method, :params, :sent, :cond
    attr_accessor :lock, :on_event, :answered, :abandoned, :unsent, :result, :error

    def initialize(id, method, params, lock, on_event)
      @id, @method, @params, @lock, @on_event = id, method, params, lock, on_event
      @sent = Sidelock.now
      @cond = ConditionVariable.new
    end
  end

  # A socket, the thread that reads it, and what waits for answers, holds and watches on it.
  class Connection
    NOTHING = { Object => :never }.freeze
    private_constant :NOTHING

    attr_reader :mutex, :pid, :session, :lease_ms, :watches, :reader
    attr_accessor :on_transferred

    def initialize(path, patience)
      @patience = patience
      @pid = Process.pid
      @mutex = Mutex.new
      @requests, @holdings, @watches = {}, {}, {}
      @calls, @outgoing = [], String.new
      @last, @no_ping_before = 0, 0.0
      @session = ""
      @socket = connect(path) # Ruby opens it, and pipes, with close-on-exec.
      @wake_out, @wake_in = IO.pipe
      @reader = Thread.new { run }
      @reader.report_on_exception = true
    end

    def broken?
      @broken || @ended
    end

    def ended?
      @ended
    end

    # In a forked child the connection is the parent's, which goes on using it.
    def forked?
      @pid != Process.pid
    end

    def forget_descriptors
      [@socket, @wake_in, @wake_out].each { |io| io.close unless io.closed? }
    end

    def start(method, params, lock: nil, on_event: nil)
      locked { begin_request(method, params, lock, on_event) }
    end

    # The result of a request that may take `wait` (nil: without limit) and what the daemon needs to answer.
    def finish(request, wait = 0)
      limit = wait && wait + @patience
      until answered?(request, limit)
        # wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
        unless answered?(start("ping", {}), @patience) || request.answered
          raise Sidelock.error("no_answer", "the daemon does not answer; it may hang")
        end
        limit = @patience
      end
      is_finished = true
      raise request.error if request.error
      request.result
    ensure
      # Also when the thread is interrupted, and the answer is just there.
      locked { abandon(request) } unless is_finished
    end

    def call(method, params)
      finish(start(method, params))
    end

    # Of a hold whose time is over: waits until the daemon has said how long it is good, or it is lost. Not in a callback, for
    # which nothing is read.
    def confirm(lock)
      return if Thread.current == @reader
      locked { tick }
      answered?(start("ping", {}), lock.answer_time)
      locked { tick }
    end

    def withdraw(request)
      locked do
        next if request.answered
        abandon(request)
        answer(request, nil, Sidelock.error("cancelled", "the wait was withdrawn"))
      end
    end

    def greet(accepts)
      params = { client: { name: File.basename($PROGRAM_NAME).scrub("?")[0, 30] }, protocol: 1, lifetime: "process" }
      params[:accept_transfers] = true if accepts
      begin
        call("initialize", params)
      rescue Error => fault
        raise unless fault.data["field"] == "lifetime"
        # The daemon cannot see this process, as from a container.
        params.delete(:lifetime)
        call("initialize", params)
      end
    end

    def close
      @mutex.synchronize do
        @closing = true
        wake
      end
      @reader.join unless Thread.current == @reader
    end

    # With the mutex held, for locks.

    def locked
      result = calls = nil
      begin
        # Nothing here is left in the middle, also where the thread is interrupted.
        Thread.handle_interrupt(NOTHING) do
          @mutex.synchronize do
            result = yield
            flush
            result.unsent = @broken && !@outgoing.empty? if result.is_a?(Request)
            calls, @calls = @calls, []
          end
        end
      ensure
        calls&.each(&:call)
      end
      result
    end

    # Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back.
    def abandon(request)
      if request.answered
        give_back(request.lock) if request.method == "acquire" && !request.error
        return
      end
      return if request.abandoned
      request.abandoned = true
      return unless request.method == "acquire" && @requests.key?(request.id)
      @outgoing << JSON.generate({ method: "cancel", params: { id: request.id } }) << "\n"
    end

    def forget(lock, name, token)
      sharing = @holdings[[name, token]] or return
      sharing.delete(lock)
      @holdings.delete([name, token]) if sharing.empty?
    end

    def register(lock)
      lock.has.each { |pair| (@holdings[pair] ||= []) << lock }
    end

    def begin_request(method, params, lock = nil, on_event = nil)
      request = Request.new(@last += 1, method, params, lock, on_event)
      lock.asked(self, request) if method == "acquire"
      line = JSON.generate({ id: request.id, method: method, params: params })
      if @ended
        answer(request, nil, end_error)
      elsif line.bytesize > LINE_BYTES_MAX
        answer(request, nil, Sidelock.error("limit", "the request is longer than a line of the daemon"))
      else
        @requests[request.id] = request
        @outgoing << line << "\n"
      end
      request
    end

    private

    def connect(path)
      socket = Socket.new(:UNIX, :STREAM)
      begin
        socket.connect_nonblock(Socket.sockaddr_un(path))
      rescue IO::WaitWritable, Errno::EAGAIN
        # A queue of connections that is full; a Unix socket tells no other way when there is room.
        raise Errno::ETIMEDOUT if (@tried = (@tried || 0) + 0.05) > @patience
        sleep 0.05
        retry
      end
      socket
    rescue Errno::EACCES, Errno::EPERM
      socket.close
      raise Sidelock.error("permission", "the permissions of #{path} keep this user out")
    rescue Errno::ETIMEDOUT
      socket.close
      raise Sidelock.error("no_answer", "the daemon at #{path} does not take connections; it may hang")
    rescue SystemCallError, ArgumentError => fault
      socket&.close
      raise Sidelock.error("no_daemon", "no daemon at #{path}: #{fault.message}")
    end

    def wake
      @wake_in.write_nonblock("!") unless @wake_in.closed?
    rescue IO::WaitWritable
      nil
    end

    def flush
      until @outgoing.empty? || @broken || @ended
        @outgoing = @outgoing.byteslice(@socket.write_nonblock(@outgoing)..)
      end
    rescue IO::WaitWritable
      wake # The reader goes on as soon as there is room.
    rescue SystemCallError, IOError
      @broken = true # What the daemon said before it closed the connection can still be read.
    end

    def run
      rest, pause = String.new, nil
      loop do
        readable, = IO.select([@socket, @wake_out], @outgoing.empty? || @broken ? nil : [@socket], nil, pause)
        break if @closing
        @wake_out.read_nonblock(4096) if readable&.include?(@wake_out)
        data = read_some if readable&.include?(@socket)
        break if data == :end || rest.bytesize > UNENDED_BYTES_MAX
        pause = locked do
          if data
            rest << data
            while (line = rest.slice!(/\A[^\n]*\n/n))
              heard(line)
            end
          end
          tick
        end
        data = nil
      end
    ensure
      locked { all_ended }
      forget_descriptors
    end

    def read_some
      @socket.read_nonblock(65_536)
    rescue IO::WaitReadable
      nil
    rescue EOFError, SystemCallError
      :end
    end

    def heard(line)
      message = JSON.parse(line.force_encoding("UTF-8"))
      return unless message.is_a?(Hash)
      if message.key?("method") && !message.key?("id")
        told(message["method"], message["params"]) if message["params"].is_a?(Hash)
        return
      end
      # Without an id it is about the connection, or about a line that the daemon could not read.
      @fault = Sidelock.refusal(message["error"]) if message["id"].nil? && message["error"]
      request = @requests.delete(message["id"])
      answer(request, message["result"], message["error"] && Sidelock.refusal(message["error"])) if request
    rescue JSON::ParserError, NoMethodError, TypeError, ArgumentError, RangeError
      nil # No message of this protocol.
    end

    def answer(request, result, fault)
      fault ||= answered(request, result)
      return if request.answered
      request.result, request.error, request.answered = result, fault, true
      @ping = nil if request.equal?(@ping)
      ping_answered(request) if request.method == "ping" && !fault
      request.cond.broadcast
    end

    # What a request that was not refused brings about. Gives the error where the answer is none.
    def answered(request, result)
      case request.method
      when "acquire" then granted(request, result)
      when "release" then request.lock && forget(request.lock, request.params[:name], request.params[:token])
      when "initialize" then @session, @lease_ms = result.fetch("session", "").to_s, Sidelock.time_of(result["lease_ms"])
      when "watch" then @watches[Integer === result["watch"] ? result["watch"] : raise(TypeError)] = request.on_event
      end
      nil
    rescue NoMethodError, TypeError, KeyError
      Sidelock.error("protocol_violation", "the daemon gave an answer that is none")
    end

    def answered?(request, limit)
      @mutex.synchronize do
        deadline = limit && Sidelock.now + limit
        until request.answered
          left = deadline && deadline - Sidelock.now
          return false if left && left <= 0
          request.cond.wait(@mutex, left)
        end
      end
      true
    end

    def give_back(lock)
      lock.has.each do |name, token|
        forget(lock, name, token)
        begin_request("release", { name: name, token: token })
      end
      lock.given_back
    end

    def granted(request, result)
      lock = request.lock
      locks = result.fetch("locks") { [{ "name" => lock.names[0], "token" => result["token"] }] }
      tokens = locks.to_h { |one| [one.fetch("name"), one.fetch("token")] }.slice(*lock.names)
      raise TypeError unless lock.names.all? { |name| tokens[name].is_a?(Integer) }
      deadline = nil
      if (valid = Sidelock.time_of(result["valid_ms"]))
        # From the grant on, however late this is read: the wait began at the daemon after the sending.
        deadline = request.sent + (Sidelock.time_of(result["waited_ms"]).to_i + valid) / 1000.0
      end
      lock.granted(tokens, result["mode"], deadline, valid.to_i / 1000.0)
      register(lock)
      give_back(lock) if request.abandoned
    end

    def told(method, params)
      case method
      when "lost"
        loss = Loss.new(*params.values_at("name", "token", "reason", "grace_ms", "detail"))
        (@holdings.delete([loss.name, loss.token]) || []).each { |lock| lose(lock, loss) }
      when "waiting"
        call = @requests[params["id"]]&.lock&.on_waiting
        @calls << -> { call.call(params) } if call
      when "contended"
        (@holdings[params.values_at("name", "token")] || []).each do |lock|
          @calls << -> { lock.on_contended.call(params["waiters"]) } if lock.on_contended
        end
      when "transferred" then @on_transferred&.call(params, @calls)
      when "event" then @watches[params["watch"]]&.call(params)
      when "backend", "missed" then tell_watches(params.merge("kind" => method))
      end
    end

    def tell_watches(event)
      @watches.each_value { |call| call.call(event) }
    end

    def lose(lock, loss)
      # Looked up when it is called: of a lock that was transferred it may be set only then.
      @calls << -> { lock.on_lost&.call(loss) } if lock.lose(loss)
    end

    def end_error
      @fault || Sidelock.error("connection_lost", "the connection to the daemon has ended")
    end

    def all_ended
      @ended = true
      @holdings.each { |(name, token), sharing| sharing.each { |lock| lose(lock, Loss.new(name, token, "connection_ended", 0)) } }
      @holdings.clear
      tell_watches({ "kind" => "ended" })
      @watches.clear
      requests = @requests.values
      @requests.clear
      requests.each { |request| answer(request, nil, end_error) }
    end

    # How long holds are good

    def timed
      @holdings.values.flatten.select(&:timed?)
    end

    def ping_answered(ping)
      valid = Sidelock.time_of(ping.result["valid_ms"]) if ping.result.is_a?(Hash)
      @no_ping_before = Sidelock.now + 0.1
      timed.each do |lock|
        if valid
          # This counts for all that was held when it was answered, from when it was asked.
          lock.good_until([lock.deadline, ping.sent + valid / 1000.0].max, valid / 1000.0)
        elsif @holdings.size > HOLDS_TOLD_MAX
          lock.good_until(nil, 0)
        end
      end
    end

    # Asks how long holds are good before that time is over, and finds those whose time is. Gives the seconds until then.
    def tick
      locks, time = timed, Sidelock.now
      return nil if locks.empty? || @ended
      ask_at = [locks.map { |lock| lock.deadline - lock.span / 2 }.min, @no_ping_before].max
      @ping ||= begin_request("ping", {}) if time >= ask_at
      return ask_at - time unless @ping
      # A process that was stopped itself asks before it judges.
      judge_at = ->(lock) { [lock.deadline, @ping.sent + lock.answer_time].max }
      locks.select { |lock| time >= judge_at.call(lock) }.each do |lock|
        name, token = lock.first
        lose(lock, Loss.new(name, token, "lease_expired", 0))
        give_back(lock)
      end
      next_at = timed.map(&judge_at).min
      next_at && [next_at - time, 0].max
    end
  end

  # A lock, or several that are taken all or none. Each acquire gives one.
  class Lock
    attr_reader :names, :mode, :deadline, :span, :loss, :has, :on_waiting, :on_contended
    attr_accessor :on_lost, :connection

    def initialize(names, on_lost: nil, on_waiting: nil, on_contended: nil)
      @names, @on_lost, @on_waiting, @on_contended = names, on_lost, on_waiting, on_contended
      @state, @tokens, @has = :waiting, {}, {}
    end

    # Whether it is held, as far as this process has been told; no longer than it is good without an answer of the daemon.
    def held?
      confirm
      open? && !over?
    end

    # Raises Lost if the lock was lost, NotHeld if it is not held, and Unavailable where its time is over and the daemon has not
    # said yet that it is still held.
    def check
      confirm
      raise Lost, @loss if @loss
      raise Sidelock.error("not_held", "lock #{@names[0]} is not held here") unless open?
      return unless over?
      raise Sidelock.error("no_answer", "the time of lock #{@names[0]} is over, and the daemon has not said yet that it is still held")
    end

    # The fencing token: send it along with every write. Raises as `check` does.
    def token
      check
      @tokens[@names[0]]
    end

    # The token of each name.
    def tokens
      check
      @tokens.dup
    end

    # For how many seconds from now the hold is good for certain; nil: it does not end by itself.
    def valid
      return 0.0 unless open?
      @deadline && [@deadline - Sidelock.now, 0.0].max
    end

    # Gives the lock back. Raises Lost if it was lost before.
    def release
      state = @state
      raise Sidelock.error("not_held", "lock #{@names[0]} is not held here") unless %i[held lost].include?(state) && !@connection.forked?
      fault = nil
      unless @connection.ended?
        # Once, whatever interrupts this: an owner who has it twice has it under one token.
        has = requests = nil
        @connection.locked do
          has, @has = @has, {}
          requests = has.map { |name, token| @connection.begin_request("release", { name: name, token: token }, self) }
          nil
        end
        requests.each do |request|
          @connection.finish(request)
        rescue Error => failure
          fault ||= failure
        end
        @connection.locked { has.each { |name, token| @connection.forget(self, name, token) } && nil }
      end
      @state = :released
      raise Lost, @loss if @loss
      raise Lost, Loss.new(@names[0], @tokens[@names[0]], fault.data["lost"], 0) if fault&.reason == "lost"
      raise fault if fault
    end

    # Shares from now on what was held alone.
    def downgrade
      of_one("downgrade", {})
      @mode = "shared"
    end

    # Sets anew after how many seconds from now the hold ends; nil: it does not.
    def extend_hold(max_hold)
      of_one("extend", { max_hold_ms: max_hold && [Sidelock.milliseconds(max_hold), 1].max })
    end

    # Hands the lock to another session of this host, which must have asked for it.
    def transfer(session)
      of_one("transfer", { session: session })
      @connection.locked { @connection.forget(self, @names[0], @tokens[@names[0]]) && nil }
      @state = :released
    end

    # For the connection, with its mutex held.

    def granted(tokens, mode, deadline, span)
      @tokens, @has, @mode, @deadline, @span, @state = tokens, tokens.dup, mode, deadline, span, :held
    end

    def good_until(deadline, span)
      @deadline, @span = deadline, span
    end

    def timed?
      @state == :held && !@deadline.nil?
    end

    # For how many seconds the daemon may leave unanswered how long it is good.
    def answer_time
      [1.0, @span / 4].min
    end

    def lose(loss)
      @has = @has.reject { |name, _| name == loss.name } unless loss.reason == "lease_expired"
      return false unless @state == :held
      @state, @loss = :lost, loss
      true
    end

    def first
      @has.first || @tokens.first
    end

    def given_back
      @has = {}
      @state = :released if @state == :held
    end

    def asked(connection, request)
      @connection, @request = connection, request
    end

    # For who asked for it, and was interrupted before he had it.
    def forgo
      @connection&.locked { @connection.abandon(@request) } unless @state == :released
    end

    private

    def open?
      @state == :held && !@connection.forked?
    end

    # Whether its time is over: it is not to be believed then until the daemon has answered.
    def over?
      deadline = @deadline
      @state == :held && !deadline.nil? && deadline <= Sidelock.now
    end

    def confirm
      @connection.confirm(self) if over? && open?
    end

    def of_one(method, more)
      check
      raise Error.new("#{method} is for one lock at a time", "invalid_params") unless @names.size == 1
      @connection.call(method, { name: @names[0], token: @tokens[@names[0]] }.merge(more))
    rescue Error
      raise Lost, @loss if @loss
      raise
    end
  end

  # Events of a watch; the last one has the kind "ended" when the connection has ended.
  class Watch
    include Enumerable

    def initialize
      @events = Queue.new
    end

    def each
      while (event = @events.pop)
        yield event
        break if event["kind"] == "ended"
      end
    end

    # No more events come.
    def close
      watched = @connection.locked { !@connection.watches.delete(@number).nil? }
      return unless watched
      @events << nil
      @connection.call("unwatch", { watch: @number })
    end

    def push(event)
      @events << event
    end

    def made(connection, number)
      @connection, @number = connection, number
      self
    end
  end

  # A wait that another thread may withdraw: `ticket = Sidelock::Ticket.new; lock("orders", ticket: ticket)`, `ticket.cancel`.
  class Ticket
    def cancel
      @cancelled = true
      @connection&.withdraw(@request)
    end

    def waits(connection, request)
      @request = request
      @connection = connection # The last, as `cancel` looks at it first.
      cancel if @cancelled
    end
  end

  # A connection that all threads share, made when it is needed, and again when it has ended.
  class Client
    # `patience`: for how many seconds the daemon may leave a request unanswered, beyond what was to be waited.
    def initialize(path = nil, patience: 5)
      @path, @patience = path, patience
      @mutex, @pid = Mutex.new, Process.pid
    end

    attr_reader :path

    # Holds a lock, or several, while the block runs, and gives the block's value. Without a block it gives the lock. `wait`:
    # seconds; nil: without limit; 0: a try. `owner`: who asks, the thread unless told; nil: nobody, who waits for himself.
    # `replicas`: how many replicas of Redis have to have the lease, else UnderReplicated; `durability`: "memory", or "disk" for
    # the primary and those replicas to have it there; nil: as the daemon's settings say.
    def lock(*names, wait: nil, shared: false, permits: nil, max_hold: nil, owner: Sidelock.thread_owner, meta: nil, enforce: nil,
             replicas: nil, durability: nil, ticket: nil, **callbacks)
      lock = Lock.new(names, **callbacks)
      params = names.size == 1 ? { name: names[0] } : { names: names }
      params[:mode] = "shared" if shared
      params[:progress] = true if lock.on_waiting || lock.on_contended
      { permits: permits, owner: owner, meta: meta, on_lost: enforce, replicas: replicas, durability: durability,
        wait_ms: wait && Sidelock.milliseconds(wait),
        max_hold_ms: max_hold && [Sidelock.milliseconds(max_hold), 1].max }.each { |key, value| params[key] = value unless value.nil? }
      # Timeout, Thread#raise and Thread#kill end a wait, or a block. They come between neither of them and the grant.
      is_done = false
      result = Thread.handle_interrupt(Object => :on_blocking) do
        connection, request = start("acquire", params, lock: lock)
        ticket&.waits(connection, request)
        connection.finish(request, wait)
        block_given? ? scope(lock) { Thread.handle_interrupt(Object => :immediate) { yield lock } } : lock
      end
      is_done = true
      result
    ensure
      lock.forgo unless is_done || lock.nil?
    end
    alias with_lock lock

    # Events of a lock, or of all whose name begins alike.
    def watch(name = nil, prefix: nil)
      watch = Watch.new
      connection, request = start("watch", name ? { name: name } : { prefix: prefix || "" }, on_event: watch.method(:push))
      watch.made(connection, connection.finish(request)["watch"])
    end

    # Any method of the protocol, and its result.
    def call(method, **params)
      connection, request = start(method, params)
      connection.finish(request)
    end

    # The daemon's name for this client; others transfer locks to it.
    def session
      connected.session
    end

    # From now on others may hand over locks; the block gets each, held, in the thread that reads.
    def accept_transfers(&block)
      @accept = block
      connection = connected
      listen(connection)
      connection.call("initialize", { accept_transfers: true })
    end

    # Gives everything back. The client may be used again.
    def close
      connection, @connection = @connection, nil
      connection&.close unless connection&.forked?
    end

    private

    def scope(lock)
      value = yield
      failed = false
      value
    rescue Exception # rubocop:disable Lint/RescueException
      failed = true
      raise
    ensure
      begin
        lock.release
      rescue NotHeld
        nil # The block has released it itself, or handed it on.
      rescue Error
        # What went wrong in the block is worth more than what followed from it.
        raise unless failed
      end
    end

    def connected
      if @pid != Process.pid
        @connection&.forget_descriptors
        @connection, @mutex, @pid = nil, Mutex.new, Process.pid
      end
      @mutex.synchronize do
        return @connection if @connection && !@connection.broken?
        @connection&.reader&.join(@patience) # It reads what the daemon said last.
        connection = Connection.new(Sidelock.socket_path(@path), @patience)
        begin
          listen(connection) if @accept
          connection.greet(!@accept.nil?)
        rescue Error
          connection.close
          raise
        end
        @connection = connection
      end
    end

    # Starts a request, over a new connection where the daemon had closed the old one before.
    def start(method, params, **more)
      connection = connected
      request = connection.start(method, params, **more)
      if request.unsent
        connection = connected
        request = connection.start(method, params, **more)
      end
      [connection, request]
    end

    def listen(connection)
      accept = @accept
      connection.on_transferred = lambda do |params, calls|
        lock = Lock.new([params["name"]])
        lock.connection = connection
        # Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take.
        lease = connection.lease_ms
        lock.granted({ params["name"] => params["token"] }, params["mode"], lease && Sidelock.now, lease.to_i / 1000.0)
        lock.good_until(lock.deadline + lock.answer_time, lock.span) if lease
        connection.register(lock)
        calls << -> { accept.call(lock) }
      end
    end
  end

  @client = Client.new

  class << self
    # The client that the functions of this module use.
    attr_reader :client

    def lock(*names, **options, &block)
      client.lock(*names, **options, &block)
    end
    alias with_lock lock

    def watch(name = nil, prefix: nil)
      client.watch(name, prefix: prefix)
    end
  end
end
