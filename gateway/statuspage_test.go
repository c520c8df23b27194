package gateway

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// markup is what a worker or a client may call itself.
const markup = `</td><script>alert(1)</script><img src=x onerror="alert(1)">&"'`

func hostileAnswers() map[string]any {
	return map[string]any{
		"status": map[string]any{
			"version": "1.2.3", "pid": 77, "uptime_s": 90061.5, "memory": map[string]any{"used": 1 << 20, "limit": 4 << 20},
			"gpus": []map[string]any{{"index": 0, "name": markup, "busy_percent": 40, "memory_used": 1 << 30, "memory_total": 2 << 30, "temperature_c": 50}},
			"pools": []map[string]any{
				{"name": "p", "state": "ready", "queued": 3, "in_flight": 2, "actions": []string{"echo", markup}, "workers": []map[string]any{{"slot": 0, "pid": 10, "state": "ready", "rss_bytes": 10 << 20}}},
				{"name": "q", "state": `failed" onclick="alert(1)`, "workers": []map[string]any{{"slot": 0, "state": "failed", "last_exit": map[string]any{"cause": "exited", "detail": markup}}}},
			},
		},
		"stats": map[string]any{
			"pools":  []map[string]any{{"name": "p", "last_10s": map[string]any{"per_s": 12.5, "failed_per_s": 0.5, "p50_ms": 1.5, "p99_ms": 250}}},
			"errors": []map[string]any{{"trace_id": markup, "begin": "2026-01-02T03:04:05.000006Z", "took_ms": 1500, "pool": markup, "action": markup, "outcome": "ABORTED/" + markup, "message": markup}},
		},
	}
}

func TestPage(t *testing.T) {
	s := start(t, manager(newFake(), hostileAnswers()), Config{})
	status, header, body := ask(t, browser(t, s.path, 1), "GET", "h/", "")
	if status != 200 || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", status, header)
	}
	policy := header.Get("Content-Security-Policy")
	nonce := regexp.MustCompile(`script-src 'nonce-([A-Z2-7]+)'`).FindStringSubmatch(policy)
	if nonce == nil || !strings.HasPrefix(policy, "default-src 'none'; ") || !strings.Contains(body, `<script nonce="`+nonce[1]+`">`) {
		t.Errorf("the policy is %s", policy)
	}
	if _, again, _ := ask(t, browser(t, s.path, 1), "GET", "h/", ""); again.Get("Content-Security-Policy") == policy {
		t.Error("the nonce is no nonce")
	}
	for _, want := range []string{
		"<title>Ringmaster: 1 of 2 pools ready</title>", "version 1.2.3, process 77, up 25h 01m", "12.5 <small>a second", "0.50 <small>a second", "1 MiB <small>of 4 MiB", `value="25"`, "1 GiB of 2 GiB",
		`<td class="n">3</td><td class="n">2</td><td class="n">12.5</td><td class="n bad">0.50</td><td class="n">1.50</td><td class="n">250</td>`, "03:04:06", `href="/metrics"`, "&lt;script&gt;", "exited: ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if i, j := strings.Index(body, `<th scope="row">q</th>`), strings.Index(body, `<th scope="row">p</th>`); i < 0 || i > j {
		t.Error("the pool that failed is not the first")
	}
	if strings.Contains(body, markup) || strings.Count(body, "<script") != 1 || strings.Contains(body, "<img") || strings.Contains(body, `onclick="`) {
		t.Errorf("a name is markup:\n%s", body)
	}
	for _, elsewhere := range []string{"http://", "https://", "//cdn", "@import", "url("} {
		if strings.Contains(body, elsewhere) {
			t.Errorf("it wants something from elsewhere: %s", elsewhere)
		}
	}
	balanced(t, body)
}

// balanced checks that every element that is opened is closed, where it should be.
func balanced(t *testing.T, body string) {
	t.Helper()
	other := regexp.MustCompile(`(?s)<script.*?</script>|<style.*?</style>|<(meta|link) [^>]*>`)
	d := xml.NewDecoder(strings.NewReader(other.ReplaceAllString(strings.TrimPrefix(body, "<!DOCTYPE html>"), "")))
	d.Entity = xml.HTMLEntity
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
	}
}

func TestPageThatStays(t *testing.T) {
	s := start(t, manager(newFake(), hostileAnswers()), Config{})
	_, _, body := ask(t, browser(t, s.path, 2), "GET", "h/?refresh=off", "")
	if strings.Contains(body, "<script") || strings.Contains(body, "http-equiv") || !strings.Contains(body, `<a href="/">have it renew itself</a>`) {
		t.Error("it renews itself")
	}
}

func TestPageOfABackendThatCountsNothing(t *testing.T) {
	answers := hostileAnswers()
	delete(answers, "stats")
	s := start(t, manager(newFake(), answers), Config{})
	c := browser(t, s.path, 1)
	if status, _, body := ask(t, c, "GET", "h/", ""); status != 200 || !strings.Contains(body, "None that is remembered") {
		t.Errorf("%d", status)
	}
	for _, other := range []string{"POST h/", "GET h/index.html", "DELETE h/"} {
		method, url, _ := strings.Cut(other, " ")
		if status, _, _ := ask(t, c, method, url, ""); status != 404 && status != 405 {
			t.Errorf("%s: %d", other, status)
		}
	}
	if status, _, body := ask(t, c, "HEAD", "h/", ""); status != 200 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
}

func TestPageWithoutAStatus(t *testing.T) {
	s := start(t, manager(newFake(), nil), Config{})
	if status, _, body := ask(t, browser(t, s.path, 1), "GET", "h/", ""); status != 404 || !strings.Contains(body, "unknown_action") {
		t.Errorf("%d %s", status, body)
	}
}

func TestShortWords(t *testing.T) {
	for b, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 10 << 20: "10 MiB", 5 << 40: "5.0 TiB"} {
		if got := shortSize(b); got != want {
			t.Errorf("%d: %s, want %s", b, got, want)
		}
	}
	for s, want := range map[float64]string{0: "0s", 61.9: "1m1s", 3 * 3600: "3h 00m", 49 * 3600: "2d 1h"} {
		if got := shortTime(s); got != want {
			t.Errorf("%v: %s, want %s", s, got, want)
		}
	}
	if now := time.Now(); newPageView(pageStatus{}, pageStats{}, now).Now == "" {
		t.Error("nothing to tell")
	}
}
