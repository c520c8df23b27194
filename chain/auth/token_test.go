package auth

import (
	"strings"
	"testing"
)

func TestNewToken(t *testing.T) {
	token, hash := NewToken()
	other, _ := NewToken()
	d, ok := parseHash(hash)
	if want := hashOf(token); token == other || len(token) != tokenLength || !ok || !d.equal(&want) {
		t.Errorf("%s, %s", token, hash)
	}
	if text, kind := parseCredential("Bearer " + token); text != token || kind != bearer {
		t.Errorf("%q, %v", text, kind)
	}
}

// Whatever is sent, only what has a token's form is looked up.
func FuzzParseCredential(f *testing.F) {
	token, _ := NewToken()
	for _, s := range []string{"", "Bearer", "Bearer ", "Bearer none", "Bearer " + token, "bearer\t" + token, "Bearer " + token + "\x00", "Bearer rm_", "Basic " + token, "Bearer " + token[:45] + "=", "Bearer " + token[:45] + "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		text, kind := parseCredential(header)
		switch {
		case kind == noCredential && header != "", header == "" && kind != noCredential:
			t.Errorf("%q: %v", header, kind)
		case kind != bearer && text != "":
			t.Errorf("%q gave %q", header, text)
		case kind == bearer && (len(text) != tokenLength || !strings.HasPrefix(text, tokenPrefix) || !strings.Contains(header, text) || strings.ContainsAny(text, " \t\r\n\"\\<>=\x00")):
			t.Errorf("%q: %q", header, text)
		}
	})
}

func FuzzParseHash(f *testing.F) {
	_, hash := NewToken()
	f.Add(hash)
	f.Add("sha256:")
	f.Add("sha256:" + strings.Repeat("g", 64))
	f.Fuzz(func(t *testing.T, s string) {
		if _, ok := parseHash(s); ok && (len(s) != len(hash) || !strings.HasPrefix(s, hashPrefix)) {
			t.Errorf("%q is taken", s)
		}
	})
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"", "", true}, {"*", "", true}, {"*", "x", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*a", "ba", true}, {"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "a-b-c", true}, {"a*b*c", "a-c", false}, {"a*b*c", "abbc", true}, {"a*bc*c", "abc", false}, {"**", "x", true}, {"a**b", "ab", true},
		{"a?c", "abc", false}, {"[a]", "a", false},
	} {
		if got := newPattern(tt.pattern).matches(tt.name); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.name, got)
		}
	}
}
