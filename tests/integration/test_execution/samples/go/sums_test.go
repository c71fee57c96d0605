package sample

import (
	"testing"
	"time"
)

func TestAdds(t *testing.T) {
	if got := Add(1, 2); got != 3 {
		t.Errorf("got %d", got)
	}
}

func TestIsWrong(t *testing.T) {
	t.Log("noted")
	t.Errorf("expected 4, got %d", Add(1, 2))
}

func TestLater(t *testing.T) { t.Skip("not yet") }

func TestTakesItsTime(t *testing.T) { time.Sleep(120 * time.Millisecond) }

func TestTable(t *testing.T) {
	t.Run("zero", func(t *testing.T) {})
	t.Run("one", func(t *testing.T) { t.Fatal("one is wrong") })
}
