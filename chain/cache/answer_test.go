package cache

import (
	"fmt"
	"testing"

	"github.com/ringmasterd/ringmaster/internal/budget"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Whoever is handed an answer is charged for it, from the cache as from a worker: a client that does not read cannot have the server hold more than its share.
func TestAnswersAreCharged(t *testing.T) {
	const size = 64 << 10
	h := start(t, one(nil), echoing())
	b := budget.New(20 * size)
	account := b.User().Account(100)
	ask := func(what int) (*ipc.Place, error) {
		place, refused := ipc.Enter(account, 0)
		if refused != nil {
			return nil, refused
		}
		req := request(string(make([]byte, size)) + fmt.Sprint(what))
		place.Hold(req)
		_, err := h.all(t.Context(), req)
		return place, err
	}
	var places []*ipc.Place
	served := 0
	for i := range 20 { // each asked twice: a miss and a hit
		place, err := ask(i / 2)
		if place != nil {
			places = append(places, place)
		}
		if err == nil {
			served++
		} else if ipc.AsError(err).Reason != "memory_full" {
			t.Fatal(err)
		}
		if b.Used() > b.Size() {
			t.Fatalf("%d bytes are held, of %d", b.Used(), b.Size())
		}
	}
	if served < 3 || served > 15 {
		t.Errorf("%d answers of a twentieth of the memory each", served)
	}
	for _, p := range places {
		p.Leave()
	}
	h.work.Wait()
	if b.Used() != 0 {
		t.Errorf("%d bytes are held by nobody", b.Used())
	}
}
