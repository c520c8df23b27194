package ipc

import (
	"errors"
	"io"
)

// How replies that come from another process get to a requester in a third. A goroutine that waited for each of them would have to be woken, which costs more than all the rest. So a request whose answer is still to come is parked, and
// whoever receives the answer passes it on:
//
//	Forward ──▶ parked ──a small END has come─────▶ the goroutine that received it sends it on, if that takes no waiting
//	   │           └─ whatever else, or a cancel ──▶ a goroutine of the crew goes on as below
//	   └─ something is there already, or the replies cannot be announced ──▶ Recv, Send, Recv, … END

// Announcer is [Replies] that tell when there is something to receive.
type Announcer interface {
	Replies
	// Announce has w woken, once, when Recv need not wait any more. false: it will not, for something is there already, or because that cannot be known or Recv may take long in any case.
	//
	// Preconditions: nobody is in Recv.
	Announce(w *Responder) bool
}

// Announce calls replies.Announce, if they can.
func Announce(replies Replies, w *Responder) bool {
	a, ok := replies.(Announcer)
	return ok && a.Announce(w)
}

// quickReply is the size in bytes of the message of the largest reply that the goroutine passes on which has received it: to copy a larger one takes longer than to wake another goroutine, and keeps all those waiting whom the same peer answers.
const quickReply = 64 << 10

// What a Responder's parked says.
const (
	inHand   uint32 = iota // somebody's goroutine is on it
	isParked               // whoever makes it woken goes on with it
	isWoken                // there is something to receive, or it was cancelled
)

// Forward answers the request with replies, each as soon as its requester has credit for it. It is the last thing that ServeRequest does: when it returns, the request may be another goroutine's.
func (w *Responder) Forward(replies Replies) {
	w.replies = replies
	if w.park() {
		return
	}
	w.s.pass(w) // for this may take long
	w.forward()
}

// park leaves the request to whoever wakes it; false: nobody will.
func (w *Responder) park() bool {
	if !Announce(w.replies, w) {
		return false
	}
	w.away = true // before somebody else may have it
	if w.parked.CompareAndSwap(inHand, isParked) {
		return true
	}
	w.away = false
	return false
}

// wake goes on with the request, if it is parked. last: nothing but a small END without an error is there. It does not wait. b is that of the goroutine which calls it, if it receives.
func (w *Responder) wake(last bool, b *burst) {
	if w.parked.Swap(isWoken) != isParked {
		return // who has it sees for himself
	}
	if p, ok := w.s.t.(prompt); ok && last {
		w.conclude(p, b)
		return
	}
	w.s.cfg.Crew.handle(job{s: w.s, w: w})
}

// conclude sends the END that is there, or has a goroutine do it if that takes waiting.
func (w *Responder) conclude(p prompt, b *burst) {
	r, err := w.replies.Recv(&w.ctx)
	if err != nil || !r.End { // it was cancelled at the same time
		go w.resumeWith(r, err)
		return
	}
	mine := *r // the responder numbers what it sends, and r is not ours
	leased := w.ending(&mine)
	e := newEncoder()
	e.reply(&mine)
	parts, _ := e.message()
	_, sent, err := p.TrySend(b, parts...)
	if !sent {
		go w.sendLater(e, parts, leased, err)
		return
	}
	e.free()
	_ = w.sentEnd(leased, nil)
	w.finish()
}

// sendLater sends the END that could not be sent at once for this reason; nil: there was no room.
func (w *Responder) sendLater(e *encoder, parts [][]byte, leased <-chan struct{}, err error) {
	defer w.finish()
	if err == nil {
		_, err = w.s.t.Send(parts...)
	}
	e.free()
	_ = w.sentEnd(leased, err) // an error is the connection's death, which its reader reports
}

// resume is what a goroutine of the crew does with a request that was parked.
func (w *Responder) resume() {
	defer w.finish()
	w.forward()
}

// resumeWith is resume for a request whose next reply has been received.
func (w *Responder) resumeWith(r *Reply, err error) {
	defer w.finish()
	w.relay(r, err)
	w.forward()
}

// forward receives and sends until the END.
func (w *Responder) forward() {
	for !w.ended {
		w.relay(w.replies.Recv(&w.ctx))
	}
}

// relay sends on what was received. An error of sending is the connection's death, which its reader reports.
func (w *Responder) relay(r *Reply, err error) {
	switch {
	case errors.Is(err, io.EOF):
		_ = w.Fail(Errorf(Internal, "internal", "the replies ended without an END"))
		return
	case err != nil:
		_ = w.Fail(err)
		return
	}
	mine := *r
	if r.End {
		_ = w.End(&mine)
		return
	}
	if err := w.Send(&w.ctx, &mine); err != nil {
		w.replies.Cancel(AsError(err).Reason)
		_ = w.Fail(err)
	}
}
