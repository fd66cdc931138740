// What moves by itself: the stock on a product page (WebSocket) and the news of orders in the footer (event stream).

const stock = document.getElementById("stock");

function watchStock(wait_ms) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws/stock`);
  const product = Number(stock.dataset.product);
  socket.onopen = () => {
    wait_ms = 500;
    socket.send(JSON.stringify({ watch: [product] }));
  };
  socket.onmessage = (message) => {
    const news = JSON.parse(message.data);
    if (news.product_id !== product || String(news.stock) === stock.textContent) return;
    stock.textContent = news.stock;
    stock.parentElement.classList.add("changed");
  };
  // Come back slower and slower, so that a server that restarts is not met by everybody at once.
  socket.onclose = () => setTimeout(() => watchStock(Math.min(wait_ms * 2, 30000)), wait_ms * (0.5 + Math.random()));
}

if (stock) watchStock(500);

const ticker = document.getElementById("ticker");
new EventSource("/events").addEventListener("order", (event) => {
  const order = JSON.parse(event.data);
  ticker.textContent = `Just ordered: ${order.items} item${order.items === 1 ? "" : "s"} for € ${(order.total_cents / 100).toFixed(2)}`;
});
